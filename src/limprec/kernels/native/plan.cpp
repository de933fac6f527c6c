// Unpacking a request and deriving the facts that the kernels need.
#include "plan.h"

#include <cmath>
#include <cstring>
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

void floating_facts(Plan& plan, Fields& fields) {
  const int exponent_bits = fields.take(4), m = fields.take(6), bias = fields.take(12) - 2048;
  const bool subnormals = fields.take(1);
  const auto specials = static_cast<Specials>(fields.take(3));
  const bool saturate = fields.take(1);
  const bool has_infinity = specials == Specials::IEEE || specials == Specials::P3109;
  const bool has_nan = specials != Specials::FINITE;

  // The codes at the top that are no numbers: a whole exponent of them, one or none.
  const uint64_t steps = uint64_t{1} << m;
  const uint64_t reserved = specials == Specials::IEEE                                  ? steps
                            : specials == Specials::FN || specials == Specials::P3109 ? 1
                                                                                        : 0;
  const uint64_t largest_code = (steps << exponent_bits) - 1 - reserved;
  const double top = 1 + static_cast<double>(largest_code % steps) / static_cast<double>(steps);
  const double max = std::ldexp(top, static_cast<int>(largest_code >> m) - bias);
  const int min_exponent = 1 - bias;

  // What lies beyond the range becomes. A directed rounding of a finite value may stop at max.
  const double infinity = std::numeric_limits<double>::infinity();
  const double overflow = saturate || !(has_infinity || has_nan) ? max
                          : has_infinity                          ? infinity
                                                                  : std::nan("");
  const Rounding r = plan.rounding;
  const bool held[2] = {r == Rounding::TOWARD_ZERO || r == Rounding::DOWN,
                        r == Rounding::TOWARD_ZERO || r == Rounding::UP};
  const bool negative_zero = specials != Specials::FNUZ && specials != Specials::P3109;
  const double zero = negative_zero ? -0.0 : 0.0;

  Wide& w = plan.wide;
  w.mantissa_bits = m;
  w.min_exponent = min_exponent;
  w.subnormals = subnormals;
  w.max = max;
  for (int s = 0; s < 2; s++) w.beyond[s] = held[s] ? max : overflow;
  w.infinite = overflow;
  w.zero = zero;

  // Multiples of one unit below the smallest normal value. Where float32's own subnormals begin at
  // the same place, its bit patterns are already in such units and no range needs special care.
  const int unit = subnormals ? min_exponent - m : min_exponent;
  const bool same_subnormals = subnormals && min_exponent == -126;
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

}  // namespace

Plan make_plan(int64_t packed, Carrier carrier, const Key& key) {
  Fields fields(packed);
  Plan plan{};
  plan.kind = static_cast<Kind>(fields.take(2));
  plan.rounding = static_cast<Rounding>(fields.take(3));
  plan.simd = static_cast<Simd>(fields.take(2));
  const int random_bits = fields.take(5) + 1;
  plan.mask = ~uint32_t{0} << (32 - random_bits);
  plan.halves = random_bits <= 16;
  plan.carrier = carrier;
  plan.key = key;
  if (plan.kind == Kind::FLOATING) {
    floating_facts(plan, fields);
  } else {
    const int bits = fields.take(6), fraction_bits = fields.take(12) - 2048;
    const bool is_signed = fields.take(1), wrap = fields.take(1);
    const bool dynamic = plan.kind == Kind::DYNAMIC;
    plan.bits = bits;
    plan.wide.code_max = std::ldexp(1.0, bits - (dynamic || is_signed)) - 1;
    plan.wide.code_min = dynamic     ? -plan.wide.code_max
                         : is_signed ? -std::ldexp(1.0, bits - 1)
                                     : 0.0;
    plan.wide.modulus = wrap ? std::ldexp(1.0, bits) : 0.0;
    if (!dynamic) set_unit(plan, -fraction_bits);
  }
  return plan;
}

void set_scale(Plan& plan, double largest) {
  plan.nan = !std::isfinite(largest);
  int exponent = 0;
  if (largest > 0 && !plan.nan) {
    std::frexp(largest, &exponent);  // floor(log2 largest) + 1
    exponent += 1 - plan.bits;
  }
  set_unit(plan, exponent);
  plan.narrow = plan.narrow && !plan.nan;
}

}  // namespace limprec
