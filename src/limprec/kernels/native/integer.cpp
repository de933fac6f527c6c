// The operator torch.ops.limprec.to_values_: sums of products of codes become values in their place.
#include "exact.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstring>
#include <optional>

namespace limprec {
namespace {

using torch::stable::Tensor;

constexpr int64_t EACH = 1 << 14;  // elements that are worth another thread

// One stretch of a row; words are int32 before and float32 after. C++ forbids to look at them as
// both, so that they are copied in and out (which compilers turn into nothing).
template <bool Biased>
void convert(char* words, int64_t count, double scale, const float* bias) {
  const auto row = [&](auto factor) {
    for (int64_t i = 0; i < count; i++) {
      int32_t total;
      std::memcpy(&total, words + 4 * i, 4);
      float value = static_cast<float>(static_cast<decltype(factor)>(total) * factor);
      if (Biased) value += bias[i];
      std::memcpy(words + 4 * i, &value, 4);
    }
  };
  exact_in_float32(scale) ? row(static_cast<float>(scale)) : row(scale);
}

void to_values(Tensor total, double scale, std::optional<Tensor> bias) {
  STD_TORCH_CHECK(total.scalar_type() == torch::headeronly::ScalarType::Int && total.dim() > 0 &&
                      total.is_contiguous(),
                  "limprec: a contiguous int32 tensor is needed");
  const int64_t size = total.numel();
  if (size == 0) return;
  char* words = static_cast<char*>(total.mutable_data_ptr());
  const int64_t columns = bias ? total.size(total.dim() - 1) : size;
  if (bias)
    STD_TORCH_CHECK(bias->scalar_type() == torch::headeronly::ScalarType::Float &&
                        bias->is_contiguous() && bias->numel() == columns,
                    "limprec: the bias needs one float32 number for each column");
  const float* addends = bias ? static_cast<const float*>(bias->const_data_ptr()) : nullptr;
  const auto work = [&](int64_t begin, int64_t end) {
    if (addends == nullptr) return convert<false>(words + 4 * begin, end - begin, scale, nullptr);
    while (begin < end) {
      const int64_t column = begin % columns, count = std::min(end - begin, columns - column);
      convert<true>(words + 4 * begin, count, scale, addends + column);
      begin += count;
    }
  };
  if (size <= EACH) return work(0, size);
  torch::stable::parallel_for(0, size, EACH, work);
}

}  // namespace
}  // namespace limprec

STABLE_TORCH_LIBRARY_FRAGMENT(limprec, m) {
  m.def("to_values_(Tensor(a!) total, float scale, Tensor? bias) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(limprec, CPU, m) {
  m.impl("to_values_", TORCH_BOX(&limprec::to_values));
}
