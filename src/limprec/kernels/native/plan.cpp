// Unpacking a request and deriving the facts that the kernels need.
#include "plan.h"

#include <cmath>
#include <cstring>
#include <iterator>
#include <limits>

namespace limprec {
namespace {

enum class Specials : uint8_t { IEEE, FN, FNUZ, FINITE, P3109 };

// Reads fields from the lowest bit up.
class Fields {
 public:
  explicit Fields(int64_t packed) : rest_(static_cast<uint64_t>(packed)) {}
  int take(int width) {
    const int field = static_cast<int>(rest_ & ((1u << width) - 1));
    rest_ >>= width;
    return field;
  }

 private:
  uint64_t rest_;
};

uint32_t float_bits(double value) {
  const float narrow = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &narrow, sizeof bits);
  return bits & 0x7fffffffu;
}

// Whether all of a Unit of 2^exponent can be had in float32.
bool has_unit(int exponent, Rounding rounding) {
  const int least = rounding == Rounding::STOCHASTIC ? -95 : -126;
  return exponent >= least && exponent <= 104;
}

Unit make_unit(int exponent) {
  return {std::ldexp(1.0f, exponent), std::ldexp(1.0f, -exponent), std::ldexp(1.0f, exponent + 23),
          std::ldexp(1.0f, 32 - exponent)};
}

// The fields of a floating-point format.
struct Layout {
  int exponent_bits, mantissa_bits, bias;
  bool subnormals;
  Specials specials;
  bool saturate;
};

// The formats of MX elements, in the order of spec.py; mxint8, the last, is none. The fourth and
// the first are also those of NVFP4.
constexpr Layout E4M3{4, 3, 7, true, Specials::FN, true};
constexpr Layout E2M1{2, 1, 1, true, Specials::FINITE, true};
constexpr Layout ELEMENTS[] = {
    E4M3,
    {5, 2, 15, true, Specials::IEEE, true},
    {3, 2, 3, true, Specials::FINITE, true},
    {2, 3, 1, true, Specials::FINITE, true},
    E2M1,
};

Layout take_layout(Fields& fields) {
  Layout f;
  f.exponent_bits = fields.take(4);
  f.mantissa_bits = fields.take(6);
  f.bias = fields.take(12) - 2048;
  f.subnormals = fields.take(1);
  f.specials = static_cast<Specials>(fields.take(3));
  f.saturate = fields.take(1);
  return f;
}

void floating_facts(Plan& plan, const Layout& f) {
  const int m = f.mantissa_bits;
  plan.floating = true;
  const bool has_infinity = f.specials == Specials::IEEE || f.specials == Specials::P3109;
  const bool has_nan = f.specials != Specials::FINITE;

  // The codes at the top that are no numbers: a whole exponent of them, one or none.
  const uint64_t steps = uint64_t{1} << m;
  const uint64_t reserved = f.specials == Specials::IEEE                                    ? steps
                            : f.specials == Specials::FN || f.specials == Specials::P3109 ? 1
                                                                                        : 0;
  const uint64_t largest_code = (steps << f.exponent_bits) - 1 - reserved;
  const double top = 1 + static_cast<double>(largest_code % steps) / static_cast<double>(steps);
  const double max = std::ldexp(top, static_cast<int>(largest_code >> m) - f.bias);
  const int min_exponent = 1 - f.bias;

  // What lies beyond the range becomes. A directed rounding of a finite value may stop at max.
  const double infinity = std::numeric_limits<double>::infinity();
  const double overflow = f.saturate || !(has_infinity || has_nan) ? max
                          : has_infinity                          ? infinity
                                                                  : std::nan("");
  const Rounding r = plan.rounding;
  const bool held[2] = {r == Rounding::TOWARD_ZERO || r == Rounding::DOWN,
                        r == Rounding::TOWARD_ZERO || r == Rounding::UP};
  const bool negative_zero = f.specials != Specials::FNUZ && f.specials != Specials::P3109;
  const double zero = negative_zero ? -0.0 : 0.0;

  Wide& w = plan.wide;
  w.mantissa_bits = m;
  w.min_exponent = min_exponent;
  w.subnormals = f.subnormals;
  w.max = max;
  for (int s = 0; s < 2; s++) w.beyond[s] = held[s] ? max : overflow;
  w.infinite = overflow;
  w.zero = zero;

  // Multiples of one unit below the smallest normal value. Where float32's own subnormals begin at
  // the same place, its bit patterns are already in such units and no range needs special care.
  const int unit = f.subnormals ? min_exponent - m : min_exponent;
  const bool same_subnormals = f.subnormals && min_exponent == -126;
  // Left to float64: a carry by 32 bits, which no shift does, and ties among powers of two.
  const bool awkward = (m == 23 && r == Rounding::STOCHASTIC) || (m == 0 && r == Rounding::NEAREST);
  const bool in_range = same_subnormals || (min_exponent >= -126 && has_unit(unit, r));
  plan.narrow = m <= 23 && in_range && !awkward;
  if (!plan.narrow) return;
  NarrowFloating& n = plan.narrow_floating;
  n.dropped = 23 - m;
  n.low = (1u << n.dropped) - 1;
  n.odd = n.dropped > 0;
  n.half = (1u << n.dropped) >> 1;
  n.limit = same_subnormals ? 0 : float_bits(std::ldexp(1.0, min_exponent));
  n.unit = make_unit(same_subnormals ? 0 : unit);
  n.max = float_bits(max);
  for (int s = 0; s < 2; s++) n.beyond[s] = float_bits(w.beyond[s]);
  n.infinite = float_bits(overflow);
  n.zero = static_cast<float>(zero);
}

void set_unit(Plan& plan, int exponent) {
  plan.wide.unit_exponent = exponent;
  const bool codes_fit = plan.wide.code_max <= 0x1p23 && plan.wide.code_min >= -0x1p23;
  plan.narrow = codes_fit && has_unit(exponent, plan.rounding) && plan.wide.modulus == 0;
  if (!plan.narrow) return;
  NarrowFixed& n = plan.narrow_fixed;
  n.unit = make_unit(exponent);
  n.min = static_cast<float>(plan.wide.code_min) * n.unit.one;
  n.max = static_cast<float>(plan.wide.code_max) * n.unit.one;
}

void symmetric_codes(Plan& plan, int bits, int fraction_bits) {
  plan.wide.code_max = std::ldexp(1.0, bits - 1) - 1;
  plan.wide.code_min = -plan.wide.code_max;
  set_unit(plan, -fraction_bits);
}

void take_fixed(Plan& plan, Fields& fields) {
  const int bits = fields.take(6), fraction_bits = fields.take(12) - 2048;
  const bool is_signed = fields.take(1), wrap = fields.take(1);
  plan.wide.code_max = std::ldexp(1.0, bits - is_signed) - 1;
  plan.wide.code_min = is_signed ? -std::ldexp(1.0, bits - 1) : 0.0;
  plan.wide.modulus = wrap ? std::ldexp(1.0, bits) : 0.0;
  set_unit(plan, -fraction_bits);
}

void take_dynamic(Plan& plan, Fields& fields) {
  const int bits = fields.take(6);
  symmetric_codes(plan, bits, 0);
  plan.scaling.below = bits - 2;
  plan.scaling.min_exponent = -5000;  // no end
  plan.scaling.max_exponent = 5000;
}

void take_microscaling(Plan& plan, Fields& fields) {
  const size_t element = static_cast<size_t>(fields.take(3));
  plan.scaling.min_exponent = -127;
  plan.scaling.max_exponent = 127;
  if (element >= std::size(ELEMENTS)) return symmetric_codes(plan, 8, 6);
  floating_facts(plan, ELEMENTS[element]);
  plan.scaling.below = std::ilogb(plan.wide.max);
}

void nvfp4(Plan& plan) {
  Plan block{};
  floating_facts(block, E4M3);
  floating_facts(plan, E2M1);
  plan.scaling.block = block.narrow_floating;
  plan.scaling.code_max = static_cast<float>(plan.wide.max);
  plan.scaling.per_tensor = static_cast<float>(plan.wide.max * block.wide.max);
}

void take_affine(Plan& plan, Fields& fields) {
  const int bits = fields.take(5);
  const Zero zero = static_cast<Zero>(fields.take(2));
  plan.narrow = true;
  plan.narrow_fixed.unit = make_unit(0);
  Scaling& s = plan.scaling;
  s.zero = zero;
  s.code_max = std::ldexp(1.0f, zero == Zero::REAL ? bits : bits - 1) - 1;
  s.code_min = zero == Zero::REAL ? 0 : zero == Zero::NONE ? -s.code_max : -s.code_max - 1;
}

Groups take_groups(Fields& fields) {
  Groups groups{};
  groups.span = static_cast<Span>(fields.take(2));
  groups.axis = fields.take(7) - 64;
  groups.block = fields.take(24);
  return groups;
}

}  // namespace

Plan make_plan(int64_t packed, Carrier carrier, const Key& key) {
  Fields fields(packed);
  Plan plan{};
  plan.kind = static_cast<Kind>(fields.take(3));
  plan.rounding = static_cast<Rounding>(fields.take(3));
  plan.simd = static_cast<Simd>(fields.take(2));
  const int random_bits = fields.take(5) + 1;
  plan.mask = ~uint32_t{0} << (32 - random_bits);
  plan.halves = random_bits <= 16;
  plan.carrier = carrier;
  plan.key = key;
  switch (plan.kind) {
    case Kind::FLOATING:
      floating_facts(plan, take_layout(fields));
      return plan;
    case Kind::FIXED:
      take_fixed(plan, fields);
      return plan;
    default:
      plan.groups = take_groups(fields);
  }
  if (plan.kind == Kind::AFFINE) {
    take_affine(plan, fields);
  } else if (plan.kind == Kind::NVFP4) {
    nvfp4(plan);
  } else {
    plan.kind == Kind::DYNAMIC ? take_dynamic(plan, fields) : take_microscaling(plan, fields);
    plan.narrow = plan.narrow && carrier != Carrier::FLOAT64;
  }
  return plan;
}

void set_tensor_scale(Plan& plan, float largest) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  plan.scaling.tensor = std::isfinite(largest) ? largest / plan.scaling.per_tensor : nan;
}

}  // namespace limprec
