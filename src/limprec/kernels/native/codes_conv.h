// Convolutions of int8 codes that leave as float32: sums in 32 bits, exact, times one scale.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <functional>

namespace limprec {

constexpr int DIMENSIONS = 3;  // of space; missing ones come first, with one place each

// One dimension of a correlation: out[p] = sum over k of row[p stride + k step], of a row of zeros
// in which `size` codes begin at `start`, which may lie before its first element.
struct Extent {
  int64_t positions, count, stride, step, start, size;

  int64_t length() const { return (positions - 1) * stride + (count - 1) * step + 1; }
  // The codes that lie in the row.
  int64_t first() const { return std::min(std::max<int64_t>(0, -start), size); }
  int64_t last() const { return std::max(first(), std::min(size, length() - start)); }
};

// A tensor (B, C, D, H, W).
template <class T>
struct Volume {
  T* data;
  int64_t sample, channel, axis[DIMENSIONS];  // strides

  T* at(int64_t n, int64_t c) const { return data + n * sample + c * channel; }
};
using Codes = Volume<const int8_t>;

// out[n, o, p] = scale * sum over c and k of in[n, c, p + k] weight[o, c, k], plus bias[o].
struct Correlation {
  Codes in;
  Extent axes[DIMENSIONS];
  const int8_t* weight;                                       // its first group, channels and tap
  int64_t to_group, to_output, to_input, to_tap[DIMENSIONS];  // its strides
  int64_t batch, groups, inputs, outputs;                     // channels: of a group
  Volume<float> out;
  const float* bias;  // one number a channel, or null
  double scale;
};

// out[o, c, k] = scale * sum over n and p of e[n, o, p] in[n, c, p + k], out dense.
struct WeightSums {
  Codes in, e;
  Extent axes[DIMENSIONS];
  int64_t batch, groups, inputs, outputs;
  float* out;
  double scale;
};

// Runs work(begin, end) on all of so many items, which take `each` multiply-adds, on some threads.
using Work = std::function<void(int64_t, int64_t)>;
struct Threads {
  int64_t count;
  std::function<void(int64_t items, int64_t each, const Work& work)> run;
};

// Both are for a CPU that has codes_matmul, and at least one element of everything; the sums of a
// correlation have at most MOST_TERMS terms.
void correlate_codes(const Correlation& c, const Threads& threads);
void sum_codes(const WeightSums& s, const Threads& threads);

}  // namespace limprec
