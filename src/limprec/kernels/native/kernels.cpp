// The loops. Compiled once per instruction set, with LIMPREC_LEVEL and LIMPREC_TABLE naming the
// copy; it includes no library header whose inline code another copy could end up with.
#include <stddef.h>

#include "carriers.h"
#include "narrow.h"
#include "philox.h"
#include "plan.h"
#include "wide.h"

namespace limprec {
namespace LIMPREC_LEVEL {

// Calls group(in, out) for each WORDS elements whose global index starts at a multiple of WORDS. A
// part of such a group, at either end, goes through a buffer.
template <class T, class Group>
static INLINE void each_group(const T* x, T* y, int64_t n, uint64_t index, Group&& group) {
  int64_t skip = static_cast<int64_t>(index % WORDS);
  while (n > 0) {
    const bool whole = skip == 0 && n >= WORDS;
    const int64_t count = whole || n > WORDS - skip ? WORDS - skip : n;
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    T buffer[WORDS];
    if (!whole) {
      __builtin_memset(buffer, 0, sizeof buffer);
      __builtin_memcpy(buffer + skip, x, bytes);
    }
    group(whole ? x : buffer, whole ? y : buffer);
    if (!whole) __builtin_memcpy(y, buffer + skip, bytes);
    x += count, y += count, n -= count, skip = 0;
  }
}

// The same with the random words of each group: group(in, out, words). Those of the other rounding
// modes are zeros that nobody reads.
template <bool RANDOM, class T, class Group>
static INLINE void each_group_with_words(const Key& key, const T* x, T* y, int64_t n,
                                         uint64_t index, Group&& group) {
  if constexpr (!RANDOM) {
    const u32 none[2] = {};
    each_group(x, y, n, 0, [&](const T* in, T* out) ALWAYS { group(in, out, none); });
    return;
  }
  while (n > 0) {
    const uint64_t left = PERIOD - index % PERIOD;
    const int64_t count = static_cast<uint64_t>(n) < left ? n : static_cast<int64_t>(left);
    Philox philox(key, index - index % WORDS);
    each_group(x, y, count, index, [&](const T* in, T* out) ALWAYS {
      u32 words[2];
      philox.next(words);
      group(in, out, words);
    });
    x += count, y += count, n -= count, index += static_cast<uint64_t>(count);
  }
}

template <class C, bool RANDOM, class Rounder>
static void narrow_loop(const Plan& plan, const void* x, void* y, int64_t n, uint64_t index) {
  using T = typename C::Element;
  const Rounder round(plan);
  each_group_with_words<RANDOM>(
      plan.key, static_cast<const T*>(x), static_cast<T*>(y), n, index,
      [&](const T* in, T* out, const u32* words) ALWAYS {
        const f32 first = C::get(in), second = C::get(in + LANES);
        C::put(out, round(first, words[0]));
        C::put(out + LANES, round(second, words[1]));
      });
}

template <class C, bool RANDOM>
static void wide_loop(const Plan& plan, const void* x, void* y, int64_t n, uint64_t index) {
  using T = typename C::Element;
  each_group_with_words<RANDOM>(
      plan.key, static_cast<const T*>(x), static_cast<T*>(y), n, index,
      [&](const T* in, T* out, const u32* words) ALWAYS {
        typename C::Number numbers[WORDS];
        C::unpack(in, numbers);
        for (int i = 0; i < WORDS; i++) {
          const uint32_t word = words[i / LANES][i % LANES];
          numbers[i] = static_cast<typename C::Number>(round_wide(numbers[i], plan, word));
        }
        C::pack(out, numbers);
      });
}

template <class C, Rounding R>
static void round_in_mode(const Plan& plan, const void* x, void* y, int64_t n, uint64_t index) {
  constexpr bool RANDOM = R == Rounding::STOCHASTIC;
  if constexpr (C::HAS_NARROW) {
    if (plan.narrow) {
      const auto loop = plan.kind != Kind::FLOATING         ? narrow_loop<C, RANDOM, Fixed<R>>
                        : plan.narrow_floating.limit != 0 ? narrow_loop<C, RANDOM, Floating<R, true>>
                                                          : narrow_loop<C, RANDOM, Floating<R, false>>;
      return loop(plan, x, y, n, index);
    }
  }
  wide_loop<C, RANDOM>(plan, x, y, n, index);
}

template <class C>
static void round_as(const Plan& plan, const void* x, void* y, int64_t n, uint64_t index) {
  switch (plan.rounding) {
    case Rounding::NEAREST:
      return round_in_mode<C, Rounding::NEAREST>(plan, x, y, n, index);
    case Rounding::NEAREST_AWAY:
      return round_in_mode<C, Rounding::NEAREST_AWAY>(plan, x, y, n, index);
    case Rounding::TOWARD_ZERO:
      return round_in_mode<C, Rounding::TOWARD_ZERO>(plan, x, y, n, index);
    case Rounding::DOWN:
      return round_in_mode<C, Rounding::DOWN>(plan, x, y, n, index);
    case Rounding::UP:
      return round_in_mode<C, Rounding::UP>(plan, x, y, n, index);
    case Rounding::STOCHASTIC:
      return round_in_mode<C, Rounding::STOCHASTIC>(plan, x, y, n, index);
  }
}

static void round(const Plan& plan, const void* x, void* y, int64_t n, uint64_t index) {
  switch (plan.carrier) {
    case Carrier::FLOAT32:
      return round_as<Float32>(plan, x, y, n, index);
    case Carrier::BFLOAT16:
      return round_as<BFloat16>(plan, x, y, n, index);
    case Carrier::FLOAT16:
      return round_as<Float16>(plan, x, y, n, index);
    case Carrier::FLOAT64:
      return round_as<Float64>(plan, x, y, n, index);
  }
}

template <class C>
static uint64_t largest_as(const void* data, int64_t n) {
  using T = typename C::Element;
  const T* x = static_cast<const T*>(data);
  using Pattern = typename C::Pattern;
  constexpr int VECTORS = WORDS / static_cast<int>(sizeof(Pattern) / sizeof(Pattern{}[0]));
  Pattern most[VECTORS] = {};
  const auto take = [&](const T* in) {
    for (int i = 0; i < VECTORS; i++) {
      const Pattern magnitude = C::magnitude(in + i * WORDS / VECTORS);
      most[i] = magnitude > most[i] ? magnitude : most[i];
    }
  };
  for (; n >= WORDS; x += WORDS, n -= WORDS) take(x);
  if (n > 0) {
    T buffer[WORDS] = {};
    __builtin_memcpy(buffer, x, static_cast<size_t>(n) * sizeof(T));
    take(buffer);
  }
  for (const Pattern& m : most) most[0] = m > most[0] ? m : most[0];
  int64_t result = 0;
  for (int i = 0; i < WORDS / VECTORS; i++) result = most[0][i] > result ? most[0][i] : result;
  return static_cast<uint64_t>(result);
}

static uint64_t largest(Carrier carrier, const void* x, int64_t n) {
  switch (carrier) {
    case Carrier::FLOAT32:
      return largest_as<Float32>(x, n);
    case Carrier::BFLOAT16:
      return largest_as<BFloat16>(x, n);
    case Carrier::FLOAT16:
      return largest_as<Float16>(x, n);
    case Carrier::FLOAT64:
      return largest_as<Float64>(x, n);
  }
  return 0;
}

}  // namespace LIMPREC_LEVEL

const Kernels LIMPREC_TABLE = {LIMPREC_LEVEL::round, LIMPREC_LEVEL::largest};

}  // namespace limprec
