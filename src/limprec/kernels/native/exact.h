// When float32 arithmetic turns sums of products of codes into values with one rounding.
#pragma once

#include <cmath>

namespace limprec {

// Whether a 31-bit integer in float32 times scale is not rounded again.
inline bool exact_in_float32(double scale) {
  int exponent;
  return scale >= 0x1p-126 && scale <= 0x1p96 && std::frexp(scale, &exponent) == 0.5;
}

}  // namespace limprec
