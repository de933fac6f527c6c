// The operator torch.ops.limprec.codes_matmul: it is there where the CPU has what it takes.
#include "codes_matmul.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <optional>
#include <vector>

namespace limprec {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t SERIAL = 1 << 20;  // multiply-adds that are not worth another thread

Matrix matrix_of(const Tensor& x) {
  const int64_t last = x.dim() - 1, rows = x.size(last - 1), columns = x.size(last);
  int64_t row = x.stride(last - 1), column = x.stride(last);
  if (columns <= 1)  // a stride that nobody takes means nothing
    column = 1;
  else if (rows <= 1)
    row = column == 1 ? columns : 1;
  STD_TORCH_CHECK(row == 1 || column == 1, "limprec: one stride of the codes must be 1");
  return {static_cast<const int8_t*>(x.const_data_ptr()), row, column};
}

std::vector<int64_t> starts_of(const Tensor& x) {
  std::vector<int64_t> starts{0};
  for (int64_t axis = 0; axis < x.dim() - 2; axis++) {
    std::vector<int64_t> finer;
    for (const int64_t start : starts)
      for (int64_t i = 0; i < x.size(axis); i++) finer.push_back(start + i * x.stride(axis));
    starts = std::move(finer);
  }
  return starts;
}

void codes_matmul(Tensor a, Tensor b, Tensor out, double scale, std::optional<Tensor> bias,
                  std::optional<Tensor> sums) {
  const int64_t rank = a.dim();
  STD_TORCH_CHECK(rank >= 2 && b.dim() == rank && out.dim() == rank,
                  "limprec: batches of matrices of one rank are needed");
  STD_TORCH_CHECK(a.scalar_type() == ScalarType::Char && b.scalar_type() == ScalarType::Char &&
                      out.scalar_type() == ScalarType::Float,
                  "limprec: int8 codes and a float32 result are needed");
  bool fit = true;
  for (int64_t axis = 0; axis < rank - 2; axis++)
    fit = fit && a.size(axis) == out.size(axis) && b.size(axis) == out.size(axis);
  const int64_t rows = a.size(rank - 2), length = a.size(rank - 1), columns = b.size(rank - 1);
  fit = fit && b.size(rank - 2) == length && out.size(rank - 2) == rows && out.size(rank - 1) == columns;
  STD_TORCH_CHECK(fit, "limprec: the shapes do not fit");
  STD_TORCH_CHECK(length <= MOST_TERMS, "limprec: 32 bits do not hold sums of so many terms");
  if (bias)
    STD_TORCH_CHECK(bias->scalar_type() == ScalarType::Float && bias->is_contiguous() &&
                        bias->numel() == columns,
                    "limprec: the bias needs one float32 number for each column");
  if (sums)
    STD_TORCH_CHECK(sums->scalar_type() == ScalarType::Int && sums->is_contiguous() &&
                        sums->numel() * columns == out.numel(),
                    "limprec: the sums need one int32 number for each row");
  if (out.numel() == 0) return;
  STD_TORCH_CHECK(columns == 1 || out.stride(rank - 1) == 1, "limprec: the result's rows have gaps");

  const std::vector<int64_t> a_starts = starts_of(a), b_starts = starts_of(b), out_starts = starts_of(out);
  const CodesProduct product{matrix_of(a),
                             matrix_of(b),
                             a_starts.data(),
                             b_starts.data(),
                             out_starts.data(),
                             static_cast<float*>(out.mutable_data_ptr()),
                             out.stride(rank - 2),
                             bias ? static_cast<const float*>(bias->const_data_ptr()) : nullptr,
                             sums ? static_cast<int32_t*>(sums->mutable_data_ptr()) : nullptr,
                             scale,
                             static_cast<int64_t>(a_starts.size()),
                             rows,
                             length,
                             columns};
  const int64_t across = codes_across(product), down = codes_down(product);
  const int64_t items = product.batch * across * down;
  const int64_t each = std::max<int64_t>(1, rows * columns * length / (across * down));
  const auto work = [&](int64_t begin, int64_t end) { multiply_codes(product, begin, end); };
  if (items == 1 || items <= SERIAL / each) return work(0, items);
  torch::stable::parallel_for(0, items, std::max<int64_t>(1, SERIAL / each), work);
}

}  // namespace
}  // namespace limprec

STABLE_TORCH_LIBRARY_FRAGMENT(limprec, m) {
  if (limprec::has_codes_matmul())
    m.def("codes_matmul(Tensor a, Tensor b, Tensor(a!) out, float scale, Tensor? bias, Tensor(b!)? sums) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(limprec, CPU, m) {
  if (limprec::has_codes_matmul()) m.impl("codes_matmul", TORCH_BOX(&limprec::codes_matmul));
}
