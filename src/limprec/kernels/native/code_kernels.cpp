// The loops of narrow storage. Compiled once per instruction set, as kernels.cpp is.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarms in GCC's own AVX-512 header
#endif

#include "codes.h"
#include "loops.h"
#include "memories.h"
#include "narrow.h"
#include "stretches.h"

namespace limprec {
namespace LIMPREC_LEVEL {

// Whole vectors, and what is left of n through a buffer: step(in, out) for pointers to LANES elements.
template <class T, class U, class Step>
static INLINE void each_vector(const T* x, U* y, int64_t n, Step&& step) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) step(x + i, y + i);
  if (i == n) return;
  T in_memory[LANES] = {};
  U out_memory[LANES];
  T* in = unaligned(in_memory);
  U* out = unaligned(out_memory);
  __builtin_memcpy(in, x + i, static_cast<size_t>(n - i) * sizeof(T));
  step(in, out);
  __builtin_memcpy(y + i, out, static_cast<size_t>(n - i) * sizeof(U));
}

// A NaN that is one in its upper bits too.
static INLINE f32 quiet(f32 x) {
  const u32 b = bits(x);
  return number((i32)(b & 0x7fffffffu) > 0x7f800000 ? b | 0x00400000u : b);
}

static bool narrow_floats(const Counting& counting, const float* x, void* codes, int64_t n) {
  i32 nan{};
  with_memory(counting.memory, [&](auto memory) ALWAYS {
    using M = decltype(memory);
    using U = typename M::Element;
    const f32 first = splat(counting.factors[0]), second = splat(counting.factors[1]);
    each_vector(x, static_cast<U*>(codes), n, [&](const float* in, U* out) ALWAYS {
      const f32 v = load<f32>(in);
      if constexpr (M::INTEGER) {
        nan |= v != v;
        M::put(out, v == v ? v * first * second : f32{});
      } else {
        M::put(out, quiet(v));
      }
    });
  });
  return greatest((i32)((u32)nan >> 1)) != 0;
}

static bool narrow(const Counting& counting, Carrier carrier, const void* x, void* codes, int64_t n) {
  if (carrier == Carrier::FLOAT32)
    return narrow_floats(counting, static_cast<const float*>(x), codes, n);
  const int64_t size = size_of(carrier), code = size_of(counting.memory);
  bool nan = false;
  float memory[STRETCH];
  float* buffer = unaligned(memory);
  for (int64_t i = 0; i < n; i += STRETCH) {
    const int64_t count = n - i < STRETCH ? n - i : STRETCH;
    read(carrier, static_cast<const char*>(x) + i * size, count, buffer);
    nan |= narrow_floats(counting, buffer, static_cast<char*>(codes) + i * code, count);
  }
  return nan;
}

static void widen_floats(Memory memory, float scale, const void* codes, float* y, int64_t n) {
  with_memory(memory, [&](auto kind) ALWAYS {
    using M = decltype(kind);
    using T = typename M::Element;
    const f32 factor = splat(scale);
    each_vector(static_cast<const T*>(codes), y, n, [&](const T* in, float* out) ALWAYS {
      const f32 v = M::get(in);
      store(out, M::INTEGER ? v * factor : v);
    });
  });
}

static void widen(Memory memory, float scale, Carrier carrier, const void* codes, void* y, int64_t n) {
  if (carrier == Carrier::FLOAT32)
    return widen_floats(memory, scale, codes, static_cast<float*>(y), n);
  const int64_t size = size_of(carrier), code = size_of(memory);
  float numbers[STRETCH];
  float* buffer = unaligned(numbers);
  for (int64_t i = 0; i < n; i += STRETCH) {
    const int64_t count = n - i < STRETCH ? n - i : STRETCH;
    widen_floats(memory, scale, static_cast<const char*>(codes) + i * code, buffer, count);
    write(carrier, static_cast<char*>(y) + i * size, count, buffer);
  }
}

// Rounding straight to codes

// The nearest integer between two, as one: half a unit of 2^22 shows it in the last bits.
static INLINE i32 nearest_code(f32 q, float least, float most) {
  f32 c = q > most ? splat(most) : q;
  c = c < least ? splat(least) : c;
  return (i32)bits(c + 0x1.8p23f) - (i32)bits(splat(0x1.8p23f));
}

// Dynamic fixed point: the plan rounds codes. A finite scale leaves no NaN.
template <Rounding R>
struct DynamicCode {
  using Code = i32;
  static constexpr bool MEETS_NAN = false;
  const Fixed<R> round;
  const float factor;
  DynamicCode(const Plan& plan, const Counting& counting)
      : round(plan), factor(counting.factors[0]) {}
  INLINE i32 operator()(f32 x, u32 word) const {
    if constexpr (R == Rounding::NEAREST)
      return nearest_code(x * factor, round.facts.min, round.facts.max);
    return to_integer(round(x * factor, word));
  }
};

// Fixed point: the plan rounds values.
template <Rounding R>
struct FixedCode {
  using Code = i32;
  static constexpr bool MEETS_NAN = true;
  const Fixed<R> round;
  const float first, second, least, most;
  FixedCode(const Plan& plan, const Counting& counting)
      : round(plan),
        first(counting.factors[0]),
        second(counting.factors[1]),
        least(static_cast<float>(plan.wide.code_min)),
        most(static_cast<float>(plan.wide.code_max)) {}
  INLINE i32 operator()(f32 x, u32 word) const {
    if constexpr (R == Rounding::NEAREST) return nearest_code(x * first * second, least, most);
    return to_integer(round(x, word) * first * second);
  }
};

template <Rounding R>
struct FloatingCode {
  using Code = f32;
  static constexpr bool MEETS_NAN = false;  // it has a code
  const Floating<R, true> round;
  FloatingCode(const Plan& plan, const Counting&) : round(plan) {}
  INLINE f32 operator()(f32 x, u32 word) const { return round(x, word); }
};

template <class C, class M, Random TAKEN, class Rounder>
static bool straight_loop(const Plan& plan, const Counting& counting, const void* x, void* codes,
                          int64_t n, uint64_t index) {
  using T = typename C::Element;
  using U = typename M::Element;
  using V = typename Rounder::Code;
  const Rounder round(plan, counting);
  i32 most{};
  each_group_with_words<TAKEN>(
      plan, static_cast<const T*>(x), static_cast<U*>(codes), n, index,
      [&](const T* in, U* out, const u32* words) ALWAYS {
#pragma GCC unroll 2
        for (int i = 0; i < VECTORS; i += 4) {
          V four[4];
#pragma GCC unroll 4
          for (int j = 0; j < 4; j++) {
            const f32 v = C::get(in + (i + j) * LANES);
            four[j] = round(v, words[i + j]);
            if constexpr (Rounder::MEETS_NAN) {
              const i32 magnitude = (i32)(bits(v) & 0x7fffffffu);
              most = magnitude > most ? magnitude : most;
            }
          }
          M::put_four(out + i * LANES, four);
        }
      });
  return greatest(most) > 0x7f800000;
}

template <class C, class M, template <Rounding> class Rounder>
static CodeLoop straight_for(const Plan& plan) {
  if (plan.rounding == Rounding::NEAREST)
    return straight_loop<C, M, Random::NONE, Rounder<Rounding::NEAREST>>;
  if (plan.rounding != Rounding::STOCHASTIC) return nullptr;
  if (plan.halves) return straight_loop<C, M, Random::HALVES, Rounder<Rounding::STOCHASTIC>>;
  return straight_loop<C, M, Random::WORDS, Rounder<Rounding::STOCHASTIC>>;
}

template <class C>
static CodeLoop straight_for(const Plan& plan, Memory memory) {
  const bool dynamic = plan.kind == Kind::DYNAMIC;
  if (memory == Memory::INT8 && dynamic) return straight_for<C, Int8, DynamicCode>(plan);
  if (memory == Memory::INT8) return straight_for<C, Int8, FixedCode>(plan);
  if (memory == Memory::INT16 && dynamic) return straight_for<C, Int16, DynamicCode>(plan);
  if (memory == Memory::INT16) return straight_for<C, Int16, FixedCode>(plan);
  if (memory == Memory::E4M3) return straight_for<C, E4M3, FloatingCode>(plan);
  if (memory == Memory::E5M2) return straight_for<C, E5M2, FloatingCode>(plan);
  return nullptr;
}

static CodeLoop straight(const Plan& plan, Memory memory) {
  if (!plan.narrow) return nullptr;
  if (plan.carrier == Carrier::FLOAT32) return straight_for<Float32>(plan, memory);
  if (plan.carrier == Carrier::BFLOAT16) return straight_for<BFloat16>(plan, memory);
  return nullptr;
}

// Masks

constexpr int SET = 64;  // elements whose bits are worked on at a time

// not_at_most, not_at_least: bits of the lanes where x <= y or x >= y does not hold, as for a NaN.
#if defined(__AVX512F__)
static INLINE uint32_t not_at_most(f32 x, f32 y) {
  return _mm512_cmp_ps_mask((__m512)x, (__m512)y, _CMP_NLE_UQ);
}
static INLINE uint32_t not_at_least(f32 x, f32 y) {
  return _mm512_cmp_ps_mask((__m512)x, (__m512)y, _CMP_NGE_UQ);
}
#else
#if defined(__AVX2__)
static INLINE uint32_t signs(i32 x) {
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)x));
}
#elif defined(__SSE2__)
static INLINE uint32_t signs(i32 x) { return static_cast<uint32_t>(_mm_movemask_ps((__m128)x)); }
#else
static INLINE uint32_t signs(i32 x) {
  uint32_t all = 0;
  for (int lane = 0; lane < LANES; lane++) all |= static_cast<uint32_t>(x[lane] < 0) << lane;
  return all;
}
#endif

static INLINE uint32_t not_at_most(f32 x, f32 y) { return signs(~(x <= y)); }
static INLINE uint32_t not_at_least(f32 x, f32 y) { return signs(~(x >= y)); }
#endif

// Lanes of all ones where the word has 1, from its lowest bit up.
static INLINE i32 lanes_of(uint32_t word) {
  u32 place{};
  for (int lane = 0; lane < LANES; lane++) place[lane] = 1u << lane;
  return (i32)(splat(word) & place) != 0;
}

// Calls step(in, mask, out) for every SET elements; the last ones through a buffer, zeros behind them.
template <bool WRITES, class T, class Byte, class Step>
static INLINE void each_set(const T* x, Byte* mask, T* y, int64_t n, Step&& step) {
  int64_t i = 0;
  for (; i + SET <= n; i += SET) step(x + i, mask + i / 8, y + i);
  if (i == n) return;
  const size_t rest = static_cast<size_t>(n - i), bytes = (rest + 7) / 8;
  T memory[SET] = {};
  T* buffer = unaligned(memory);
  uint8_t bits[SET / 8] = {};
  __builtin_memcpy(buffer, x + i, rest * sizeof(T));
  __builtin_memcpy(bits, mask + i / 8, bytes);
  step(buffer, bits, buffer);
  __builtin_memcpy(y + i, buffer, rest * sizeof(T));
  if constexpr (WRITES) __builtin_memcpy(mask + i / 8, bits, bytes);
}

template <class C, bool CUT>
static void relu_of(float ceiling, const void* x, void* y, uint8_t* mask, int64_t n) {
  using T = typename C::Element;
  const f32 zero{}, top = splat(ceiling);
  each_set<true>(static_cast<const T*>(x), mask, static_cast<T*>(y), n,
           [&](const T* in, uint8_t* bytes, T* out) ALWAYS {
             uint64_t word = 0;
#pragma GCC unroll 16
             for (int i = 0; i < SET; i += LANES) {
               const f32 v = C::get(in + i), floored = v < zero ? zero : v;
               C::put(out + i, CUT ? (floored > top ? top : floored) : floored);
               uint64_t keep = not_at_most(v, zero);
               if constexpr (CUT) keep &= not_at_least(v, top);
               word |= keep << i;
             }
             for (int i = 0; i < SET / 8; i++) bytes[i] = static_cast<uint8_t>(word >> 8 * i);
           });
}

template <class C>
static void relu_of(float ceiling, const void* x, void* y, uint8_t* mask, int64_t n) {
  const bool cut = ceiling == ceiling;
  cut ? relu_of<C, true>(ceiling, x, y, mask, n) : relu_of<C, false>(ceiling, x, y, mask, n);
}

static void relu(Carrier carrier, float ceiling, const void* x, void* y, uint8_t* mask, int64_t n) {
  if (carrier == Carrier::FLOAT32) return relu_of<Float32>(ceiling, x, y, mask, n);
  if (carrier == Carrier::BFLOAT16) return relu_of<BFloat16>(ceiling, x, y, mask, n);
  relu_of<Float16>(ceiling, x, y, mask, n);
}

static INLINE u32 get(const uint32_t* p) { return load<u32>(p); }
static INLINE void put(uint32_t* p, u32 x) { store(p, x); }
static INLINE u32 get(const uint16_t* p) { return widen(load<u16>(p)); }
static INLINE void put(uint16_t* p, u32 x) { store(p, narrow(x)); }

template <class T>
static void mask_of(const void* x, const uint8_t* mask, void* y, int64_t n) {
  each_set<false>(static_cast<const T*>(x), mask, static_cast<T*>(y), n,
           [&](const T* in, const uint8_t* bytes, T* out) ALWAYS {
             uint64_t word = 0;
             for (int i = 0; i < SET / 8; i++) word |= static_cast<uint64_t>(bytes[i]) << 8 * i;
#pragma GCC unroll 16
             for (int i = 0; i < SET; i += LANES)
               put(out + i, get(in + i) & (u32)lanes_of(static_cast<uint32_t>(word >> i)));
           });
}

static void mask(Carrier carrier, const void* x, const uint8_t* mask, void* y, int64_t n) {
  if (carrier == Carrier::FLOAT32) return mask_of<uint32_t>(x, mask, y, n);
  mask_of<uint16_t>(x, mask, y, n);
}

}  // namespace LIMPREC_LEVEL

#define LIMPREC_JOIN(a, b) a##b
#define LIMPREC_NAME(table) LIMPREC_JOIN(CODES_, table)
const CodeKernels LIMPREC_NAME(LIMPREC_TABLE) = {LIMPREC_LEVEL::straight, LIMPREC_LEVEL::narrow,
                                                 LIMPREC_LEVEL::widen, LIMPREC_LEVEL::relu,
                                                 LIMPREC_LEVEL::mask};

}  // namespace limprec
