// Exact sums of float64 numbers, rounded once: matmul/reference.py, a vector at a time. Plain
// arithmetic on the compilers' vectors, for every instruction set.
#pragma once

#include "lanes.h"
#include "matmul.h"

namespace limprec::LIMPREC_LEVEL {

typedef double f64 __attribute__((vector_size(BYTES)));
typedef int64_t i64 __attribute__((vector_size(BYTES)));

constexpr int DOUBLES = BYTES / 8;
constexpr uint64_t SIGN = 1ull << 63, INFINITE = 0x7ffull << 52;

static inline f64 splat(double x) { return f64{} + x; }
static inline u64 code(f64 x) { return (u64)x; }
static inline f64 value(u64 x) { return (f64)x; }
static inline f64 magnitude(f64 x) { return value(code(x) & ~SIGN); }
static inline f64 with_sign(f64 x, f64 of) { return value(code(x) | (code(of) & SIGN)); }
static inline f64 one_where(i64 mask) { return value((u64)mask & code(splat(1.0))); }
static inline f64 keep_where(i64 mask, f64 x) { return value((u64)mask & code(x)); }

// To integers, for magnitudes under 2^51: nearest (ties to even), down, toward zero.
static inline f64 to_nearest(f64 x) { return (x + 0x1.8p52) - 0x1.8p52; }
static inline f64 down(f64 x) {
  const f64 n = to_nearest(x);
  return n - one_where(n > x);
}
static inline f64 truncated(f64 x) {  // any magnitude, infinities too; NaN gives anything
  const f64 a = magnitude(x);
  return a < 0x1p51 ? with_sign(down(a), x) : a < 0x1p52 ? with_sign(
      (a + 0x1p52) - 0x1p52 - one_where((a + 0x1p52) - 0x1p52 > a), x) : x;
}

static inline bool any(i64 mask) {
#if defined(__AVX512F__)
  return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#else
  int64_t all = 0;
  for (int i = 0; i < DOUBLES; i++) all |= mask[i];
  return all != 0;
#endif
}

// fl(x + y) and what it lacks.
static inline f64 two_sum(f64 x, f64 y, f64& error) {
  const f64 s = x + y, z = s - x;
  error = (x - (s - z)) + (y - z);
  return s;
}

// The sum rounded to odd: the neighbour with an odd last bit, unless it is exact.
static inline f64 odd_sum(f64 x, f64 y) {
  f64 e;
  const f64 s = two_sum(x, y, e);
  const u64 b = code(s);
  const i64 even = (i64)((b & 1) - 1);
  const i64 lacking = (e != 0.0) & (magnitude(s) < __builtin_inf());
  const u64 opposite = (u64)((i64)(code(e) ^ b) >> 63);  // 0 or -1: to move away from 0 or to it
  return value(b + ((u64)(even & lacking) & (opposite | 1)));
}

// Floating point, as `Floating` of narrow.h.
template <Rounding R>
struct FloatingSum {
  static constexpr bool RANDOM = R == Rounding::STOCHASTIC;
  const DoubleFormat p;

  inline f64 operator()(f64 x, f64 y, u64 word) const { return round(odd_sum(x, y), word); }

  inline f64 round(f64 x, u64 word) const {
    const u64 b = code(x), a = b & ~SIGN, sign = b & SIGN;
    u64 r = (a + carry(a, sign, word)) & ~p.low;
    const i64 small = (i64)a < static_cast<int64_t>(p.limit);
    if (any(small)) r = small ? code(multiple(value(a), sign, word)) : r;
    const i64 nan = (i64)a > static_cast<int64_t>(INFINITE);
    const i64 over = ((i64)r > static_cast<int64_t>(p.max)) | nan;
    if (any(over)) {
      r = over ? beyond(a, sign) : r;
      r = nan ? a : r;
    }
    return value(r | sign) + p.zero;
  }

 private:
  inline u64 carry(u64 a, u64 sign, u64 word) const {
    if constexpr (R == Rounding::NEAREST) return (a >> p.dropped & p.odd) + (p.half - p.odd);
    if constexpr (R == Rounding::NEAREST_AWAY) return u64{} + p.half;
    if constexpr (R == Rounding::TOWARD_ZERO) return u64{};
    if constexpr (R == Rounding::STOCHASTIC) return word << (p.dropped - 32);
    const u64 negative = (u64)((i64)sign < 0);
    return (R == Rounding::DOWN ? negative : ~negative) & p.low;
  }

  inline u64 beyond(u64 a, u64 sign) const {
    const u64 side = (i64)sign < 0 ? u64{} + p.beyond[1] : u64{} + p.beyond[0];
    return a == INFINITE ? u64{} + p.infinite : side;
  }

  // Below the normal numbers: whole units.
  inline f64 multiple(f64 a, u64 sign, u64 word) const {
    const f64 bounded = value((i64)code(a) < static_cast<int64_t>(p.limit) ? code(a) : u64{});
    const f64 q = bounded * p.per_unit;
    if constexpr (R == Rounding::NEAREST) return to_nearest(q) * p.unit;
    const f64 low = down(q);
    i64 away{};
    if constexpr (R == Rounding::NEAREST_AWAY) away = q - low >= 0.5;
    if constexpr (R == Rounding::STOCHASTIC)
      away = down((q - low) * 0x1p32) + __builtin_convertvector(word, f64) >= 0x1p32;
    if constexpr (R == Rounding::DOWN || R == Rounding::UP) {
      const i64 negative = (i64)sign < 0;
      away = (low * p.unit < bounded) & (R == Rounding::DOWN ? negative : ~negative);
    }
    return (low + one_where(away)) * p.unit;
  }
};

// Fixed point: an integer, or another one congruent to it, and a rest between -1 and 1.
template <Rounding R>
struct FixedSum {
  static constexpr bool RANDOM = R == Rounding::STOCHASTIC;
  const DoubleFormat p;

  inline f64 round(f64 x, u64 word) const { return (*this)(x, f64{}, word); }

  inline f64 operator()(f64 x, f64 y, u64 word) const {
    f64 e;
    const f64 s = two_sum(x * p.per_unit, y * p.per_unit, e);
    const f64 top = truncated(s);
    f64 n = top;
    if (any((e != 0.0) | (s - top != 0.0))) {  // not integers alone; also what is not finite
      const bool usual = !any((e != 0.0) | (magnitude(s) >= 0x1p50));
      n = usual && R == Rounding::NEAREST ? to_nearest(s) : rounded(s, e, top, word);
    }
    const i64 finite = magnitude(s) < __builtin_inf();
    if (p.modulus != 0) {
      n = reduced(n);
      n = n - down((n - p.code_min) * p.per_modulus) * p.modulus;
      n = finite ? n : splat(__builtin_nan(""));
    } else {
      n = finite ? n : s;
      n = n > p.code_max ? splat(p.code_max) : n;
      n = n < p.code_min ? splat(p.code_min) : n;
    }
    return (n + 0.0) * p.unit;
  }

 private:
  // Under 2^bits in magnitude, if the format wraps.
  inline f64 reduced(f64 n) const { return n - truncated(n * p.per_modulus) * p.modulus; }

  inline f64 rounded(f64 s, f64 e, f64 top, u64 word) const {
    f64 high = truncated(e), whole = top;
    const i64 huge = magnitude(s) >= 0x1p51;
    const f64 fraction = odd_sum(s - top, e - high);
    const f64 part = truncated(fraction);
    if (p.modulus != 0) {
      whole = reduced(whole), high = reduced(high);
    } else {  // so far out that only the sign matters
      whole = huge ? with_sign(splat(0x1p51), s) : whole;
      high = huge ? f64{} : high;
    }
    const i64 negative = s < 0.0;
    const f64 sign = negative ? splat(-1.0) : splat(1.0);
    const f64 rest = (fraction - part) * sign;
    const i64 below = rest < 0.0;
    const f64 low = (whole + high + part) * sign - one_where(below);
    const f64 over = rest + (below ? splat(0.5) : splat(-0.5));
    i64 away{};
    if constexpr (R == Rounding::NEAREST) {
      const f64 half = low * 0.5;
      away = (over > 0.0) | ((over == 0.0) & (half != to_nearest(half)));
    } else if constexpr (R == Rounding::NEAREST_AWAY) {
      away = over >= 0.0;
    } else if constexpr (R == Rounding::STOCHASTIC) {
      const f64 threshold = down(rest * 0x1p32) + keep_where(below, splat(0x1p32));
      away = threshold + __builtin_convertvector(word, f64) >= 0x1p32;
    } else if constexpr (R != Rounding::TOWARD_ZERO) {
      away = (rest != 0.0) & (R == Rounding::DOWN ? negative : ~negative);
    }
    return (low + one_where(away)) * sign;
  }
};

}  // namespace limprec::LIMPREC_LEVEL
