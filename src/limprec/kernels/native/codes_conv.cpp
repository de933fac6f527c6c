// The operators torch.ops.limprec.codes_conv*: they are there where the CPU has what they take.
#include "codes_conv.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <numeric>
#include <optional>
#include <vector>

#include "codes_matmul.h"

namespace limprec {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t SERIAL = 1 << 20;  // multiply-adds that are not worth another thread

Threads threads() {
  const auto run = [](int64_t items, int64_t each, const Work& work) {
    if (items == 1 || items <= SERIAL / each) return work(0, items);
    torch::stable::parallel_for(0, items, std::max<int64_t>(1, SERIAL / each), work);
  };
  return {static_cast<int64_t>(torch::stable::get_num_threads()), run};
}

// Sizes and strides of (B, C, *sizes), of any number of dimensions of space.
struct Shape {
  int64_t batch, channels, size[DIMENSIONS], axis[DIMENSIONS];

  explicit Shape(const Tensor& x) : batch(x.size(0)), channels(x.size(1)) {
    const int64_t missing = DIMENSIONS + 2 - x.dim();
    for (int64_t d = 0; d < DIMENSIONS; d++) {
      const bool there = d >= missing;
      size[d] = there ? x.size(d - missing + 2) : 1;
      axis[d] = there ? x.stride(d - missing + 2) : 0;
    }
  }
};

// Stride, padding in front and dilation of each dimension.
struct Geometry {
  int64_t stride[DIMENSIONS], before[DIMENSIONS], step[DIMENSIONS];

  Geometry(const std::vector<int64_t>& numbers, int64_t dimensions) {
    STD_TORCH_CHECK(static_cast<int64_t>(numbers.size()) == 3 * dimensions,
                    "limprec: a stride, padding and dilation for each dimension are needed");
    for (int64_t d = 0; d < DIMENSIONS; d++) {
      const int64_t from = d - (DIMENSIONS - dimensions);
      const auto number = [&](int64_t i, int64_t least) {
        if (from < 0) return least;
        const int64_t n = numbers[static_cast<size_t>(i * dimensions + from)];
        STD_TORCH_CHECK(n >= least, "limprec: a stride, padding or dilation is too small");
        return n;
      };
      stride[d] = number(0, 1), before[d] = number(1, 0), step[d] = number(2, 1);
    }
  }
};

Codes codes_of(const Tensor& x, const Shape& s) {
  return {static_cast<const int8_t*>(x.const_data_ptr()), x.stride(0), x.stride(1),
          {s.axis[0], s.axis[1], s.axis[2]}};
}

Volume<float> values_of(const Tensor& x, const Shape& s) {
  return {static_cast<float*>(x.mutable_data_ptr()), x.stride(0), x.stride(1),
          {s.axis[0], s.axis[1], s.axis[2]}};
}

// What the three operators have in common: a convolution of `in` with `weight` to `out`.
struct Problem {
  Shape in, weight, out;
  Geometry geometry;
  int64_t groups;

  Problem(const Tensor& x, const Tensor& w, const Tensor& y, const std::vector<int64_t>& numbers,
          int64_t groups)
      : in(x), weight(w), out(y), geometry(numbers, x.dim() - 2), groups(groups) {
    const bool fit = groups > 0 && in.channels == weight.channels * groups &&
                     weight.batch == out.channels && out.channels % groups == 0 && in.batch == out.batch;
    STD_TORCH_CHECK(fit, "limprec: the shapes do not fit");
    for (int d = 0; d < DIMENSIONS; d++)
      if (out.size[d] <= 1) geometry.stride[d] = 1;  // a stride that nobody takes means nothing
  }

  Extent axis(int d) const {
    return {out.size[d],      weight.size[d],     geometry.stride[d],
            geometry.step[d], geometry.before[d], in.size[d]};
  }
};

void check(const Tensor& a, const Tensor& b, const Tensor& out) {
  const int64_t rank = a.dim();
  STD_TORCH_CHECK(3 <= rank && rank <= 5 && b.dim() == rank && out.dim() == rank,
                  "limprec: tensors of one rank, 3 to 5, are needed");
  STD_TORCH_CHECK(a.scalar_type() == ScalarType::Char && b.scalar_type() == ScalarType::Char &&
                      out.scalar_type() == ScalarType::Float,
                  "limprec: int8 codes and a float32 result are needed");
}

int64_t product(const int64_t (&sizes)[DIMENSIONS]) { return sizes[0] * sizes[1] * sizes[2]; }

void check_terms(int64_t channels, const Shape& weight) {
  STD_TORCH_CHECK(channels * product(weight.size) <= MOST_TERMS,
                  "limprec: 32 bits do not hold sums of so many terms");
}

void convolve(Tensor x, Tensor weight, Tensor out, std::vector<int64_t> geometry, int64_t groups,
              double scale, std::optional<Tensor> bias) {
  check(x, weight, out);
  const Problem p(x, weight, out, geometry, groups);
  check_terms(p.weight.channels, p.weight);
  if (bias)
    STD_TORCH_CHECK(bias->scalar_type() == ScalarType::Float && bias->is_contiguous() &&
                        bias->numel() == p.out.channels,
                    "limprec: the bias needs one float32 number for each channel");
  if (out.numel() == 0) return;
  const int64_t outputs = p.out.channels / groups;
  const Correlation c{codes_of(x, p.in),
                      {p.axis(0), p.axis(1), p.axis(2)},
                      static_cast<const int8_t*>(weight.const_data_ptr()),
                      outputs * weight.stride(0),
                      weight.stride(0),
                      weight.stride(1),
                      {p.weight.axis[0], p.weight.axis[1], p.weight.axis[2]},
                      p.in.batch,
                      groups,
                      p.weight.channels,
                      outputs,
                      values_of(out, p.out),
                      bias ? static_cast<const float*>(bias->const_data_ptr()) : nullptr,
                      scale};
  correlate_codes(c, threads());
}

// Inputs r, r + stride, ... of one dimension are a correlation of the errors: input j meets error o
// through tap k where j = o stride + k step - before. For the inputs of a phase that leaves every
// `every`-th tap from `first` on, last tap first; the next input of the phase meets the next error.
struct Phase {
  int64_t first, every;
  Extent axis;
};

Phase phase_of(const Problem& p, int d, int64_t phase) {
  const int64_t stride = p.geometry.stride[d], step = p.geometry.step[d], taps = p.weight.size[d];
  const int64_t reach = phase + p.geometry.before[d], every = stride / std::gcd(stride, step);
  int64_t first = 0;
  while (first < std::min(every, taps) && (reach - first * step) % stride != 0) first++;
  const int64_t positions = (p.in.size[d] - phase + stride - 1) / stride;
  const int64_t count = first < std::min(every, taps) ? (taps - first + every - 1) / every : 0;
  const int64_t apart = every * step / stride;
  const int64_t start = (count - 1) * apart - (reach - first * step) / stride;
  return {first, every, {positions, count, 1, apart, start, p.out.size[d]}};
}

void fill_zeros(const Volume<float>& out, const Extent (&axes)[DIMENSIONS], int64_t batch,
                int64_t channels) {
  for (int64_t n = 0; n < batch; n++)
    for (int64_t c = 0; c < channels; c++)
      for (int64_t i = 0; i < axes[0].positions; i++)
        for (int64_t j = 0; j < axes[1].positions; j++)
          for (int64_t k = 0; k < axes[2].positions; k++)
            out.at(n, c)[i * out.axis[0] + j * out.axis[1] + k * out.axis[2]] = 0;
}

void convolve_back(Tensor e, Tensor weight, Tensor out, std::vector<int64_t> geometry, int64_t groups,
                   double scale) {
  check(e, weight, out);
  const Problem p(out, weight, e, geometry, groups);
  const int64_t outputs = p.out.channels / groups;
  check_terms(outputs, p.weight);
  if (out.numel() == 0) return;
  const int64_t(&stride)[DIMENSIONS] = p.geometry.stride;
  for (int64_t number = 0; number < product(stride); number++) {
    const int64_t at[] = {number / stride[2] / stride[1], number / stride[2] % stride[1], number % stride[2]};
    Correlation c{codes_of(e, p.out),
                  {},
                  static_cast<const int8_t*>(weight.const_data_ptr()),
                  outputs * weight.stride(0),
                  weight.stride(1),
                  weight.stride(0),
                  {},
                  p.in.batch,
                  groups,
                  outputs,
                  p.weight.channels,
                  values_of(out, p.in),
                  nullptr,
                  scale};
    bool some = true, met = e.numel() > 0;
    for (int d = 0; d < DIMENSIONS; d++) {
      const Phase phase = phase_of(p, d, at[d]);
      c.axes[d] = phase.axis;
      some = some && phase.axis.positions > 0, met = met && phase.axis.count > 0;
      c.weight += (phase.first + (phase.axis.count - 1) * phase.every) * p.weight.axis[d];
      c.to_tap[d] = -phase.every * p.weight.axis[d];
      c.out.data += at[d] * c.out.axis[d];
      c.out.axis[d] *= stride[d];
    }
    if (!some) continue;
    if (met)
      correlate_codes(c, threads());
    else
      fill_zeros(c.out, c.axes, c.batch, p.in.channels);
  }
}

void sum_weight(Tensor e, Tensor x, Tensor out, std::vector<int64_t> geometry, int64_t groups, double scale) {
  check(e, x, out);
  const Problem p(x, out, e, geometry, groups);
  STD_TORCH_CHECK(out.is_contiguous(), "limprec: the result must be contiguous");
  int d = 0;
  while (d < DIMENSIONS - 1 && p.out.size[d] <= 1) d++;
  STD_TORCH_CHECK(product(p.out.size) <= MOST_TERMS * p.out.size[d],
                  "limprec: 32 bits do not hold sums of so many terms");
  if (out.numel() == 0) return;
  auto* to = static_cast<float*>(out.mutable_data_ptr());
  if (e.numel() == 0) {
    std::fill(to, to + out.numel(), static_cast<float>(0 * scale));
    return;
  }
  sum_codes({codes_of(x, p.in),
             codes_of(e, p.out),
             {p.axis(0), p.axis(1), p.axis(2)},
             p.in.batch,
             groups,
             p.weight.channels,
             p.out.channels / groups,
             to,
             scale},
            threads());
}

}  // namespace
}  // namespace limprec

STABLE_TORCH_LIBRARY_FRAGMENT(limprec, m) {
  if (!limprec::has_codes_matmul()) return;
  m.def(
      "codes_conv(Tensor x, Tensor weight, Tensor(a!) out, int[] geometry, int groups, float scale,"
      " Tensor? bias) -> ()");
  m.def(
      "codes_conv_back(Tensor e, Tensor weight, Tensor(a!) out, int[] geometry, int groups,"
      " float scale) -> ()");
  m.def(
      "codes_conv_weight(Tensor e, Tensor x, Tensor(a!) out, int[] geometry, int groups,"
      " float scale) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(limprec, CPU, m) {
  if (!limprec::has_codes_matmul()) return;
  m.impl("codes_conv", TORCH_BOX(&limprec::convolve));
  m.impl("codes_conv_back", TORCH_BOX(&limprec::convolve_back));
  m.impl("codes_conv_weight", TORCH_BOX(&limprec::sum_weight));
}
