// The update rules of kernels/steps/rules.py on vectors, in the order written there.
#pragma once

#include "lanes.h"
#include "step.h"

namespace limprec::LIMPREC_LEVEL {

static INLINE f32 root(f32 x) {
#if defined(__AVX512F__)
  return (f32)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
  return (f32)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
  return (f32)_mm_sqrt_ps((__m128)x);
#else
  for (int i = 0; i < LANES; i++) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

// Replaces the states by the new ones and returns the update. s: the rule's numbers in the order of
// SCALARS there, where the first two are always the step and the decay. STATES: how many are kept;
// with SGD one is the momentum, with Adam the third is amsgrad's.
template <Rule RULE, int STATES>
static INLINE f32 direction(uint32_t flags, const float* s, f32 g, f32 w, f32* kept) {
  if constexpr (RULE == Rule::SGD) {
    if constexpr (STATES == 0) return g;
    const f32 m = s[2] * kept[0] + s[3] * g;
    kept[0] = m;
    return flags & NESTEROV ? g + s[2] * m : m;
  } else if constexpr (RULE == Rule::ADAM) {
    const f32 m = s[2] * kept[0] + s[3] * g, v = s[4] * kept[1] + s[5] * (g * g);
    f32 most = v;
    if constexpr (STATES == 3) kept[2] = most = v > kept[2] ? v : kept[2];
    kept[0] = m, kept[1] = v;
    return m / (root(most) * s[6] + s[7]);
  } else if constexpr (RULE == Rule::LION) {
    const f32 mix = s[2] * kept[0] + s[3] * g, one = splat(1.0f);
    kept[0] = s[4] * kept[0] + s[5] * g;
    return mix > 0 ? one : mix < 0 ? -one : mix;  // 0 and NaN stay
  } else if constexpr (RULE == Rule::RMSPROP) {
    const f32 v = s[3] * kept[0] + s[4] * (g * g);
    f32 spread = v;
    kept[0] = v;
    const bool centered = STATES == 3 || (STATES == 2 && flags & CENTERED);
    if constexpr (STATES >= 2) {
      if (centered) {
        const f32 average = s[3] * kept[1] + s[4] * g;
        spread = v - average * average;
        spread = spread < 0 ? f32{} : spread;
        kept[1] = average;
      }
    }
    f32 to = g / (root(spread) + s[5]);
    if constexpr (STATES >= 2) {
      if (STATES == 3 || !centered) {
        f32& buffer = kept[STATES - 1];
        buffer = to = s[2] * buffer + to;
      }
    }
    return to;
  } else if constexpr (RULE == Rule::ADD) {
    return g;
  } else {
    return g - w;
  }
}

template <Rule RULE, int STATES>
static INLINE f32 advance(uint32_t flags, const float* s, f32 g, f32 w, f32* kept) {
  if (flags & MAXIMIZE) g = -g;
  if (flags & DECAY) g = g + s[1] * w;
  const f32 update = s[0] * direction<RULE, STATES>(flags, s, g, w, kept);
  return flags & DECOUPLED ? update + s[1] * w : update;
}

}  // namespace limprec::LIMPREC_LEVEL
