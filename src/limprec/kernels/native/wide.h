// Rounding in float64 arithmetic, one element at a time: reference.py line by line. It takes the
// float64 carrier and the few formats that float32 arithmetic cannot round exactly.
#pragma once

#include <stdint.h>

#include "plan.h"

namespace limprec::LIMPREC_LEVEL {

static INLINE double from_pattern(uint64_t b) { return __builtin_bit_cast(double, b); }
static INLINE uint64_t pattern(double x) { return __builtin_bit_cast(uint64_t, x); }

static INLINE double power_of_two(int exponent) {
  return from_pattern(static_cast<uint64_t>(exponent + 1023) << 52);
}

// x * 2^exponent in two factors, so that neither overflows.
static INLINE double scale(double x, int exponent) {
  const int half = exponent >> 1;
  return x * power_of_two(half) * power_of_two(exponent - half);
}

// floor(log2 |x|); any small number for 0.
static INLINE int exponent_of(double x) {
  const int field = static_cast<int>(pattern(x) >> 52 & 0x7ff);
  if (field != 0) return field - 1023;
  return static_cast<int>(pattern(x * 0x1p54) >> 52 & 0x7ff) - 1023 - 54;
}

static INLINE double to_integer(double q, Rounding rounding, uint32_t word) {
  switch (rounding) {
    case Rounding::NEAREST:
      return __builtin_rint(q);
    case Rounding::TOWARD_ZERO:
      return __builtin_trunc(q);
    case Rounding::DOWN:
      return __builtin_floor(q);
    case Rounding::UP:
      return __builtin_ceil(q);
    default:
      break;
  }
  const double a = __builtin_fabs(q), low = __builtin_floor(a), rest = a - low;
  const bool away = rounding == Rounding::NEAREST_AWAY
                        ? rest >= 0.5
                        : __builtin_floor(rest * 0x1p32) + word >= 0x1p32;
  return __builtin_copysign(low + away, q);
}

// x in units of 2^exponent, rounded; an underflow must not look like an exact zero.
static INLINE double in_units(double x, int exponent, Rounding rounding, uint32_t word) {
  double q = scale(x, -exponent);
  if (q == 0 && x != 0) q = __builtin_copysign(0x1p-60, x);
  return to_integer(q, rounding, word);
}

static INLINE double wide_floating(double x, const Wide& p, Rounding rounding, uint32_t word) {
  const bool finite = __builtin_isfinite(x);
  double y = x;
  if (finite) {
    const int exponent = exponent_of(x);
    const int top = exponent < p.min_exponent ? p.min_exponent : exponent;
    const bool flushed = !p.subnormals && exponent < p.min_exponent;
    const int unit = flushed ? p.min_exponent : top - p.mantissa_bits;
    y = scale(in_units(x, unit, rounding, word), unit);
  }
  if (__builtin_fabs(y) > p.max) {
    const double magnitude = finite ? p.beyond[__builtin_signbit(x) != 0] : p.infinite;
    y = __builtin_copysign(magnitude, x);
  }
  return y + p.zero;
}

static INLINE double wide_fixed(double x, const Wide& p, Rounding rounding, uint32_t word) {
  double code = in_units(x, p.unit_exponent, rounding, word);
  if (p.modulus != 0) {
    if (!__builtin_isfinite(code)) return __builtin_nan("");
    code = __builtin_fmod(code, p.modulus);
    if (code < 0) code += p.modulus;
    if (code > p.code_max) code -= p.modulus;
  } else {
    if (code > p.code_max) code = p.code_max;
    if (code < p.code_min) code = p.code_min;
  }
  return scale(code + 0.0, p.unit_exponent);
}

static INLINE double round_wide(double x, const Plan& plan, uint32_t word) {
  if (plan.nan) return __builtin_nan("");
  return plan.kind == Kind::FLOATING ? wide_floating(x, plan.wide, plan.rounding, word)
                                     : wide_fixed(x, plan.wide, plan.rounding, word);
}

}  // namespace limprec::LIMPREC_LEVEL
