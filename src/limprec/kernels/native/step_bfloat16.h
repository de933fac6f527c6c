// Steps whose memory is bfloat16 throughout, but for a master copy in float32, in one pass: the case
// of pure bfloat16 training.
//
// A 32-bit lane holds two neighbours, the upper one a float32 as it stands and the lower one a shift
// away from that; a random word likewise holds the 16 bits of both. So only float32 is reordered.
#pragma once

#include "carriers.h"
#include "philox.h"
#include "step.h"
#include "step_float32.h"
#include "step_rules.h"
#include "step_write_back.h"

namespace limprec::LIMPREC_LEVEL {

constexpr uint32_t UPPER = 0xffff0000u;
constexpr int PAIRS = 4;         // of vectors that the loop takes at a time
constexpr int PAIR = 2 * LANES;  // elements of a pair
constexpr int PAIR_GROUP = PAIRS * PAIR;
constexpr int AHEAD = 512;  // elements: how early memory is asked for

// Two neighbours of every lane.
struct Two {
  f32 lower, upper;
};

static INLINE Two load_two(const void* data, int64_t at) {
  const u32 x = load<u32>(static_cast<const uint16_t*>(data) + at);
  return {number(x << 16), number(x & UPPER)};
}
// The lower 16 bits of a and the upper ones of b, where a has no others.
static INLINE u32 merged(u32 a, u32 b) {
#if defined(__AVX512F__)
  return (u32)_mm512_mask_mov_epi16((__m512i)a, 0xaaaaaaaau, (__m512i)b);
#else
  return a | (b & UPPER);
#endif
}
static INLINE void store_two(void* data, int64_t at, Two x) {
  store(static_cast<uint16_t*>(data) + at, merged(bits(x.lower) >> 16, bits(x.upper)));
}

// The same from float32 numbers.
#if defined(__AVX512F__)
static INLINE Two load_two_floats(const float* p) {
  const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
  const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
  const __m512 a = load<__m512>(p), b = load<__m512>(p + LANES);
  return {(f32)_mm512_permutex2var_ps(a, even, b), (f32)_mm512_permutex2var_ps(a, odd, b)};
}
static INLINE void store_two_floats(float* p, Two x) {
  const __m512i first = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i second = _mm512_add_epi32(first, _mm512_set1_epi32(8));
  const __m512 a = (__m512)x.lower, b = (__m512)x.upper;
  store(p, _mm512_permutex2var_ps(a, first, b));
  store(p + LANES, _mm512_permutex2var_ps(a, second, b));
}
#elif defined(__AVX2__)
static INLINE f32 in_order(__m256 pairs) {  // of 64 bits, which shuffles take in halves
  return (f32)_mm256_permute4x64_epi64((__m256i)pairs, 0xd8);
}
static INLINE Two load_two_floats(const float* p) {
  const __m256 a = load<__m256>(p), b = load<__m256>(p + LANES);
  return {in_order(_mm256_shuffle_ps(a, b, 0x88)), in_order(_mm256_shuffle_ps(a, b, 0xdd))};
}
static INLINE void store_two_floats(float* p, Two x) {
  const __m256 a = (__m256)x.lower, b = (__m256)x.upper;
  const __m256 low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
  store(p, _mm256_permute2f128_ps(low, high, 0x20));
  store(p + LANES, _mm256_permute2f128_ps(low, high, 0x31));
}
#else
static INLINE Two load_two_floats(const float* p) {
  Two x;
  for (int i = 0; i < LANES; i++) x.lower[i] = p[2 * i], x.upper[i] = p[2 * i + 1];
  return x;
}
static INLINE void store_two_floats(float* p, Two x) {
  for (int i = 0; i < LANES; i++) p[2 * i] = x.lower[i], p[2 * i + 1] = x.upper[i];
}
#endif

// x plus what carries into its upper half when it rounds away; overflow becomes infinity by itself.
// The lower half is of no account. It is 0 in a NaN that comes from bfloat16, and nothing carries.
template <bool ANY_NAN>
static INLINE f32 plus(f32 x, u32 carrying) {
  const f32 y = number(bits(x) + carrying);
  return ANY_NAN ? keep_nan(x, y) : y;
}
template <bool ANY_NAN = false>
static INLINE Two nearest_upper(Two x) {
  return {plus<ANY_NAN>(x.lower, (bits(x.lower) >> 16 & 1u) + 0x7fffu),
          plus<ANY_NAN>(x.upper, (bits(x.upper) >> 16 & 1u) + 0x7fffu)};
}
template <bool ANY_NAN = false>
static INLINE Two stochastic_upper(Two x, u32 word) {
  return {plus<ANY_NAN>(x.lower, word & 0xffffu), plus<ANY_NAN>(x.upper, word >> 16)};
}
static INLINE f32 only_upper(f32 x) { return number(bits(x) & UPPER); }

// Asks for the lines of a group's elements of `size` bytes. There is too much to compute between two
// loads of one tensor for the processor to look that far ahead.
static INLINE void fetch(const void* data, int64_t at, int size) {
  const char* from = static_cast<const char*>(data) + at * size;
  for (int i = 0; i < PAIR_GROUP * size; i += 64) __builtin_prefetch(from + i);
}

// Whether a storage is bfloat16 in every respect, rounded in one of the two ways above.
static inline bool is_bfloat16(const Storage& s) {
  const Plan& plan = s.plan;
  const bool random = plan.rounding == Rounding::STOCHASTIC && plan.halves && plan.mask == UPPER;
  return s.memory == Memory::BFLOAT16 && s.own && (random || plan.rounding == Rounding::NEAREST);
}

template <Rule RULE, int STATES, WriteBack STRATEGY>
static void step_bfloat16(const StepPlan& plan, const StepSlot& slot, int64_t begin, int64_t end) {
  using Words = Philox<Random::HALVES>;
  const auto is_random = [](const Storage& s) { return s.plan.rounding == Rounding::STOCHASTIC; };
  constexpr bool HAS_REST = STRATEGY == WriteBack::KAHAN || STRATEGY == WriteBack::LAZY;
  const Storage& last = HAS_REST ? plan.carry : plan.parameter;
  const bool last_random = STRATEGY != WriteBack::SPLIT && is_random(last);
  const auto words_of = [&](uint32_t place) {
    Key key = plan.parameter.plan.key;
    key.stream = slot.stream + place;
    return Words(key, slot.offset + static_cast<uint64_t>(begin), UPPER);
  };
  Words last_words = words_of(HAS_REST ? CARRY_PLACE : PARAMETER_PLACE);
  Words state_words[2] = {words_of(STATE_PLACE), words_of(STATE_PLACE + 1)};
  const uint32_t flags = plan.flags;
  float s[MAX_SCALARS];
  __builtin_memcpy(s, plan.scalars, sizeof s);

  for (int64_t group = begin; group < end; group += PAIR_GROUP) {
    fetch(slot.grad, group + AHEAD, 2);
    fetch(slot.p, group + AHEAD, 2);
    if constexpr (STRATEGY != WriteBack::NEAREST)
      fetch(slot.carry, group + AHEAD, STRATEGY == WriteBack::MASTER ? 4 : 2);
    for (int k = 0; k < STATES; k++) fetch(slot.state[k], group + AHEAD, 2);
    u32 word[STATES + 1][PAIRS];
    for (int k = 0; k < STATES; k++)
      if (is_random(plan.state[k])) state_words[k].template next_raw<PAIRS / 2>(word[k]);
    if (last_random) last_words.template next_raw<PAIRS / 2>(word[STATES]);
#pragma GCC unroll 4
    for (int i = 0; i < PAIRS; i++) {
      const int64_t at = group + i * PAIR;
      const Two g = load_two(slot.grad, at), p = load_two(slot.p, at);
      Two w = p, kept[STATES + 1], u;
      u32 halves{};
      if constexpr (STRATEGY == WriteBack::SPLIT) {
        halves = load<u32>(static_cast<const uint16_t*>(slot.carry) + at);
        w.lower = join_halves(p.lower, (i32)(halves << 16) >> 16);
        w.upper = join_halves(p.upper, (i32)halves >> 16);
      }
      if constexpr (STRATEGY == WriteBack::MASTER)
        w = load_two_floats(static_cast<const float*>(slot.carry) + at);
      for (int k = 0; k < STATES; k++) kept[k] = load_two(slot.state[k], at);
      f32 half[STATES + 1];
      for (int k = 0; k < STATES; k++) half[k] = kept[k].lower;
      u.lower = advance<RULE, STATES>(flags, s, g.lower, w.lower, half);
      for (int k = 0; k < STATES; k++) kept[k].lower = half[k], half[k] = kept[k].upper;
      u.upper = advance<RULE, STATES>(flags, s, g.upper, w.upper, half);
      for (int k = 0; k < STATES; k++) {
        kept[k].upper = half[k];
        const bool random = is_random(plan.state[k]);
        store_two(slot.state[k], at,
                  random ? stochastic_upper(kept[k], word[k][i]) : nearest_upper(kept[k]));
      }
      if constexpr (HAS_REST) {
        const Two c = load_two(slot.carry, at), y{u.lower + c.lower, u.upper + c.upper};
        const Two total{p.lower + y.lower, p.upper + y.upper};
        const Two near = nearest_upper(total);
        const Two t{only_upper(near.lower), only_upper(near.upper)};
        const Two rest{
            rest_of(STRATEGY, p.lower, y.lower, total.lower, t.lower, plan.min, plan.max),
            rest_of(STRATEGY, p.upper, y.upper, total.upper, t.upper, plan.min, plan.max)};
        store_two(slot.p, at, t);
        store_two(slot.carry, at,
                  last_random ? stochastic_upper(rest, word[STATES][i]) : nearest_upper(rest));
      } else {
        Two total{w.lower + u.lower, w.upper + u.upper};
        if constexpr (STRATEGY == WriteBack::SPLIT) {
          const i32 lower = split_halves(total.lower), upper = split_halves(total.upper);
          store_two(slot.p, at, total);
          store(static_cast<uint16_t*>(slot.carry) + at, ((u32)lower & 0xffffu) | (u32)upper << 16);
        } else {
          if constexpr (STRATEGY == WriteBack::MASTER)
            store_two_floats(static_cast<float*>(slot.carry) + at, total);
          constexpr bool ANY_NAN = STRATEGY == WriteBack::MASTER;
          store_two(slot.p, at,
                    last_random ? stochastic_upper<ANY_NAN>(total, word[STATES][i])
                                : nearest_upper<ANY_NAN>(total));
        }
      }
    }
  }
}

template <Rule RULE, int STATES>
static StepLoop bfloat16_loop(WriteBack strategy) {
  switch (strategy) {
    case WriteBack::NEAREST:
    case WriteBack::STOCHASTIC:
      return step_bfloat16<RULE, STATES, WriteBack::NEAREST>;
    case WriteBack::KAHAN:
      return step_bfloat16<RULE, STATES, WriteBack::KAHAN>;
    case WriteBack::LAZY:
      return step_bfloat16<RULE, STATES, WriteBack::LAZY>;
    case WriteBack::MASTER:
      return step_bfloat16<RULE, STATES, WriteBack::MASTER>;
    case WriteBack::SPLIT:
      return step_bfloat16<RULE, STATES, WriteBack::SPLIT>;
  }
  return nullptr;
}

// The loop for a step, if there is one; it takes whole groups whose global index is a multiple of one.
static StepLoop bfloat16_loop(const StepPlan& plan) {
  bool fits = is_bfloat16(plan.parameter) && plan.grad == Memory::BFLOAT16 && !plan.strict;
  const bool has_rest = plan.strategy == WriteBack::KAHAN || plan.strategy == WriteBack::LAZY;
  fits = fits && (!has_rest || is_bfloat16(plan.carry));
  for (int k = 0; k < plan.states; k++) fits = fits && is_bfloat16(plan.state[k]);
  if (!fits) return nullptr;
  if (plan.rule == Rule::SGD && plan.states == 1) return bfloat16_loop<Rule::SGD, 1>(plan.strategy);
  if (plan.rule == Rule::SGD) return bfloat16_loop<Rule::SGD, 0>(plan.strategy);
  if (plan.rule == Rule::ADAM && plan.states == 2) return bfloat16_loop<Rule::ADAM, 2>(plan.strategy);
  if (plan.rule == Rule::LION) return bfloat16_loop<Rule::LION, 1>(plan.strategy);
  if (plan.rule == Rule::RMSPROP && plan.states == 1)
    return bfloat16_loop<Rule::RMSPROP, 1>(plan.strategy);
  return nullptr;
}

}  // namespace limprec::LIMPREC_LEVEL
