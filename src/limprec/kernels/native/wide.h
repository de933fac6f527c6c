// Rounding in float64 arithmetic: elements.py line by line, without branches, so that the compiler
// vectorises the loop around it. It takes the float64 carrier and the few formats that float32
// arithmetic cannot round exactly.
#pragma once

#include <stdint.h>

#include "lanes.h"
#include "plan.h"

namespace limprec::LIMPREC_LEVEL {

static INLINE double from_pattern(int64_t b) { return __builtin_bit_cast(double, b); }
static INLINE int64_t pattern(double x) { return __builtin_bit_cast(int64_t, x); }

static INLINE bool is_finite(double x) { return (pattern(x) & INT64_MAX) < int64_t{0x7ff} << 52; }

static INLINE double power_of_two(int64_t exponent) { return from_pattern((exponent + 1023) << 52); }

// x * 2^exponent in two factors, so that neither overflows.
static INLINE double scale(double x, int64_t exponent) {
  const int64_t half = exponent >> 1;
  return x * power_of_two(half) * power_of_two(exponent - half);
}

// floor(log2 |x|); any small number for 0.
static INLINE int64_t exponent_of(double x) {
  const int64_t field = pattern(x) >> 52 & 0x7ff, above = pattern(x * 0x1p54) >> 52 & 0x7ff;
  return field != 0 ? field - 1023 : above - 1023 - 54;
}

// x in units of 2^exponent; an underflow must not look like an exact zero.
static INLINE double in_units(double x, int64_t exponent) {
  const double q = scale(x, -exponent), tiny = __builtin_copysign(0x1p-60, x);
  return q == 0 && x != 0 ? tiny : q;
}

template <Rounding R>
static INLINE double to_integer(double q, uint32_t word) {
  if constexpr (R == Rounding::NEAREST) return __builtin_rint(q);
  if constexpr (R == Rounding::TOWARD_ZERO) return __builtin_trunc(q);
  if constexpr (R == Rounding::DOWN) return __builtin_floor(q);
  if constexpr (R == Rounding::UP) return __builtin_ceil(q);
  const double a = __builtin_fabs(q), low = __builtin_floor(a), rest = a - low;
  const double far = low + 1;
  const bool away = R == Rounding::NEAREST_AWAY ? rest >= 0.5
                                                : __builtin_floor(rest * 0x1p32) + word >= 0x1p32;
  return __builtin_copysign(away ? far : low, q);
}

template <Rounding R>
struct WideFloating {
  Wide facts;
  explicit WideFloating(const Plan& plan) : facts(plan.wide) {}

  INLINE double operator()(double x, uint32_t word) const {
    const Wide& p = facts;
    const bool finite = is_finite(x);
    const int64_t exponent = exponent_of(finite ? x : 0.0), least = p.min_exponent;
    const int64_t top = exponent < least ? least : exponent;
    const int64_t unit = !p.subnormals && exponent < least ? least : top - p.mantissa_bits;
    const double q = in_units(x, unit);
    double steps = to_integer<R>(q, word);
    if constexpr (R == Rounding::NEAREST) {
      // Without a mantissa one step is the lower power of two: a tie goes up, unless the code
      // below is the even one.
      const bool even = p.mantissa_bits == 0 && ((exponent - least) & 1) != 0;
      steps = even && __builtin_fabs(q) == 1.5 ? __builtin_copysign(1.0, q) : steps;
    }
    const double rounded = scale(steps, unit), y = finite ? rounded : x;
    const double side = pattern(x) < 0 ? p.beyond[1] : p.beyond[0];
    const double beyond = __builtin_copysign(finite ? side : p.infinite, x);
    return (__builtin_fabs(y) > p.max ? beyond : y) + p.zero;
  }
};

template <Rounding R>
struct WideFixed {
  Wide facts;
  explicit WideFixed(const Plan& plan) : facts(plan.wide) {}

  INLINE double operator()(double x, uint32_t word) const {
    double code = to_integer<R>(in_units(x, facts.unit_exponent), word);
    code = code > facts.code_max ? facts.code_max : code;
    code = code < facts.code_min ? facts.code_min : code;
    return scale(code + 0.0, facts.unit_exponent);
  }
};

// Modulo a power of two, which is exact; infinities become NaN.
template <Rounding R>
struct WideWrapping {
  Wide facts;
  double per_modulus;
  explicit WideWrapping(const Plan& plan) : facts(plan.wide), per_modulus(1 / facts.modulus) {}

  INLINE double operator()(double x, uint32_t word) const {
    double code = to_integer<R>(in_units(x, facts.unit_exponent), word);
    code -= __builtin_trunc(code * per_modulus) * facts.modulus;
    code = code > facts.code_max ? code - facts.modulus : code;
    code = code < facts.code_min ? code + facts.modulus : code;
    return scale(code + 0.0, facts.unit_exponent);
  }
};

}  // namespace limprec::LIMPREC_LEVEL
