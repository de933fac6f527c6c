// Formats with shared scales in float32 arithmetic, kernels/scaled.py line by line: how a scale
// follows from the extremes of its group (`scale`, a group in each lane), and how an element is
// rounded under it. Up to FACTS vectors tell an element of its group's scale.
#pragma once

#include "narrow.h"

namespace limprec::LIMPREC_LEVEL {

constexpr uint32_t NAN_BITS = 0x7fc00000u, INFINITY_BITS = 0x7f800000u;
constexpr int MOST_FACTS = 2;

struct Group {
  u32 magnitude;  // bit pattern of the largest
  f32 low, high;
};

static INLINE f32 finite_or_nan(f32 x) {
  const u32 magnitude = bits(x) & 0x7fffffffu;
  return (i32)magnitude < static_cast<int32_t>(INFINITY_BITS) ? x : number(splat(NAN_BITS));
}
static INLINE f32 zero_like(f32 x) { return number(bits(x) & 0x80000000u); }

// Powers of two: dynamic fixed point and microscaling. The fact is the scale; dividing by it is
// exact, but for what becomes so small that only directed roundings tell it from zero.
template <class Element, Rounding R>
struct Shifted {
  static constexpr int FACTS = 1;
  static constexpr bool RANGE = false;  // whether it needs low and high
  const Element element;
  const int32_t below;
  explicit Shifted(const Plan& plan) : element(plan), below(plan.scaling.below) {}

  // Returns the lanes that only float64 serves: subnormal magnitudes, scales near float32's ends.
  INLINE i32 scale(const Group& group, f32* facts) const {
    const i32 top = (i32)group.magnitude, field = (top >> 23) - below;
    const i32 none = top == 0, endless = top >= static_cast<int32_t>(INFINITY_BITS);
    const i32 scale = none ? i32{} : field << 23;
    facts[0] = (f32)(endless ? i32{} + static_cast<int32_t>(NAN_BITS) : scale);
    return ~(((field >= 1) & (field <= 253)) | none | endless);
  }

  INLINE f32 operator()(f32 x, u32 word, const f32* facts) const {
    f32 q = x * number(0x7f000000u - bits(facts[0]));
    if constexpr (R == Rounding::DOWN || R == Rounding::UP) {
      const f32 tiny = number(bits(zero_like(x)) | bits(splat(0x1p-60f)));
      q = (i32)(q == 0.0f) & (i32)(x != 0.0f) ? tiny : q;
    }
    return element.scaled(q, word, facts[0]);
  }
};

// Elements times a scale; codes have no negative zero.
template <Rounding R>
struct FloatingElement {
  const Floating<R, true> round;
  explicit FloatingElement(const Plan& plan) : round(plan) {}
  INLINE f32 scaled(f32 q, u32 word, f32 scale) const { return round(q, word) * scale; }
};
template <Rounding R>
struct Code {
  const Fixed<R> round;
  explicit Code(const Plan& plan) : round(plan) {}
  INLINE f32 scaled(f32 q, u32 word, f32 scale) const { return round(q, word) * scale + 0.0f; }
};

// NVFP4. The facts are the block's scale and its product with the tensor's.
template <Rounding R>
struct TwoLevel {
  static constexpr int FACTS = 2;
  static constexpr bool RANGE = false;
  const Floating<R, true> element;
  const Floating<Rounding::NEAREST, true> block;
  const float tensor, most;
  explicit TwoLevel(const Plan& plan)
      : element(plan),
        block(plan.scaling.block),
        tensor(plan.scaling.tensor),
        most(plan.scaling.code_max) {}

  INLINE i32 scale(const Group& group, f32* facts) const {
    const f32 ratio = number(group.magnitude) / most / tensor;
    facts[0] = block(tensor == 0.0f ? f32{} : ratio, u32{});
    facts[1] = facts[0] * tensor;
    return i32{};
  }

  INLINE f32 operator()(f32 x, u32 word, const f32* facts) const {
    const f32 q = facts[1] == 0.0f ? zero_like(x) : x / facts[1];
    return element(q, word) * facts[0] * tensor;
  }
};

// Affine integers. The facts are the scale and the zero point (REAL: the minimum).
template <Rounding R, bool REAL>
struct Affine {
  static constexpr int FACTS = 2;
  static constexpr bool RANGE = true;
  const Unit unit;
  const float code_min, code_max;
  const Zero zero;
  explicit Affine(const Plan& plan)
      : unit(plan.narrow_fixed.unit),
        code_min(plan.scaling.code_min),
        code_max(plan.scaling.code_max),
        zero(plan.scaling.zero) {}

  INLINE i32 scale(const Group& group, f32* facts) const {
    const f32 top = number(group.magnitude);
    f32 step = top / code_max, low = group.low, high = group.high;
    if (zero == Zero::INTEGER) {
      low = low < 0.0f ? low : f32{};
      high = high > 0.0f ? high : f32{};
    }
    if (zero != Zero::NONE) step = (high - low) / (code_max - code_min);
    const i32 finite = (i32)group.magnitude < static_cast<int32_t>(INFINITY_BITS);
    facts[0] = finite ? finite_or_nan(step) : number(splat(NAN_BITS));
    facts[1] = zero == Zero::REAL ? low : zero == Zero::NONE ? f32{} : point(low, step);
    return i32{};
  }

  INLINE f32 operator()(f32 x, u32 word, const f32* facts) const {
    const f32 step = facts[0], from_zero = REAL ? x - facts[1] : x;
    const f32 q = step == 0.0f ? f32{} : from_zero / step;
    // Clamping to integers first is the same as clamping last.
    const f32 least = REAL ? splat(code_min) : code_min - facts[1];
    const f32 most = REAL ? splat(code_max) : code_max - facts[1];
    f32 c = q > most ? most : q;
    c = c < least ? least : c;
    const u32 sign = bits(c) & 0x80000000u;
    const f32 r = to_multiple<R>(number(bits(c) & 0x7fffffffu), sign, word, unit);
    const f32 code = keep_nan(q, number(bits(r) | sign) + 0.0f);
    return REAL ? code * step + facts[1] + 0.0f : code * step;
  }

 private:
  INLINE f32 point(f32 low, f32 step) const {
    const f32 offset = step == 0.0f ? f32{} : low / step, magic = splat(0x1.8p23f);
    f32 z = (code_min - offset + magic) - magic;  // to nearest
    z = z > code_max ? splat(code_max) : z;
    return z < code_min ? splat(code_min) : z;
  }
};

}  // namespace limprec::LIMPREC_LEVEL
