// Rounding in float32 arithmetic, a vector at a time, for the plans where that is exact.
// Bit patterns of magnitudes are compared as signed integers: only AVX-512 compares unsigned ones.
#pragma once

#include "lanes.h"
#include "plan.h"

namespace limprec::LIMPREC_LEVEL {

constexpr bool is_directed(Rounding r) {
  return r == Rounding::TOWARD_ZERO || r == Rounding::DOWN || r == Rounding::UP;
}

// The nonnegative `a`, below 2^23 units or equal to that, rounded to a whole number of them. `sign`
// has the sign bit of the value that `a` is the magnitude of.
template <Rounding R>
static INLINE f32 to_multiple(f32 a, u32 sign, u32 word, const Unit& unit) {
  if constexpr (R == Rounding::NEAREST) return (a + unit.magic) - unit.magic;
  const f32 low = floor_to(a, unit);
  if constexpr (R == Rounding::TOWARD_ZERO) return low;
  i32 away;
  if constexpr (R == Rounding::NEAREST_AWAY) {
    away = a - low >= 0.5f * unit.one;
  } else if constexpr (R == Rounding::STOCHASTIC) {
    away = whole((a - low) * unit.words) > ~word;
  } else {
    const i32 negative = (i32)sign < 0;
    away = (low < a) & (R == Rounding::DOWN ? negative : ~negative);
  }
  return low + (away ? splat(unit.one) : f32{});
}

// Floating point. Above `limit` a unit in the last place is a fixed bit of the pattern: add what
// carries into it when the value rounds away, then clear what is below. LIMITED is false where no
// magnitude is below it.
template <Rounding R, bool LIMITED>
struct Floating {
  NarrowFloating facts;
  explicit Floating(const NarrowFloating& given) : facts(given) {}
  explicit Floating(const Plan& plan) : facts(plan.narrow_floating) {}

  INLINE f32 operator()(f32 x, u32 word) const {
    const NarrowFloating& p = facts;
    const u32 b = bits(x), a = b & 0x7fffffffu, sign = b & 0x80000000u;
    u32 r = (a + carry(a, sign, word)) & ~p.low;
    if constexpr (LIMITED) {
      const u32 small = bits(to_multiple<R>(number(a), sign, word, p.unit));
      r = (i32)a < static_cast<int32_t>(p.limit) ? small : r;
    }
    r = (i32)r > static_cast<int32_t>(p.max) ? beyond(a, sign) : r;
    return keep_nan(x, number(r | sign) + p.zero);
  }

 private:
  INLINE u32 carry(u32 a, u32 sign, u32 word) const {
    const NarrowFloating& p = facts;
    if constexpr (R == Rounding::NEAREST) return (a >> p.dropped & p.odd) + (p.half - p.odd);
    if constexpr (R == Rounding::NEAREST_AWAY) return splat(p.half);
    if constexpr (R == Rounding::TOWARD_ZERO) return u32{};
    if constexpr (R == Rounding::STOCHASTIC) return word >> (32 - p.dropped);
    const u32 negative = (u32)((i32)sign < 0);
    return (R == Rounding::DOWN ? negative : ~negative) & p.low;
  }

  INLINE u32 beyond(u32 a, u32 sign) const {
    if constexpr (!is_directed(R)) return splat(facts.infinite);
    const u32 side = (i32)sign < 0 ? splat(facts.beyond[1]) : splat(facts.beyond[0]);
    return (i32)a == 0x7f800000 ? splat(facts.infinite) : side;
  }
};

// Fixed point, also with the scale of a whole tensor. Clamping first is the same as clamping last,
// for the ends are multiples of the unit and rounding is monotonic; it keeps within floor_to's range.
template <Rounding R>
struct Fixed {
  NarrowFixed facts;
  explicit Fixed(const Plan& plan) : facts(plan.narrow_fixed) {}

  INLINE f32 operator()(f32 x, u32 word) const {
    f32 c = x > facts.max ? splat(facts.max) : x;
    c = c < facts.min ? splat(facts.min) : c;
    const u32 sign = bits(c) & 0x80000000u;
    const f32 a = number(bits(c) & 0x7fffffffu);
    const f32 r = to_multiple<R>(a, sign, word, facts.unit);
    return keep_nan(x, number(bits(r) | sign) + 0.0f);  // no negative zero
  }
};

}  // namespace limprec::LIMPREC_LEVEL
