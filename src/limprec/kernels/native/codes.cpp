// The operators of narrow storage: rounding straight to codes and back, ReLU with a bit an element.
#include "codes.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "call.h"
#include "codes_memory.h"
#include "dtypes.h"

namespace limprec {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const CodeKernels& code_kernels(Simd asked) {
  const Simd level = usable_simd(asked);
#if defined(LIMPREC_X86)
  if (level == Simd::AVX512) return CODES_AVX512;
  if (level == Simd::AVX2) return CODES_AVX2;
#endif
  (void)level;
  return CODES_PORTABLE;
}

Memory memory_of(const Tensor& codes) {
  int32_t dtype;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(codes.get(), &dtype));
  for (const Memory memory : {Memory::INT8, Memory::INT16, Memory::E4M3, Memory::E5M2,
                              Memory::BFLOAT16, Memory::FLOAT16})
    if (dtype == dtype_of(memory)) return memory;
  STD_TORCH_CHECK(false, "limprec: codes are int8, int16, float8, bfloat16 or float16");
}

Carrier narrow_carrier_of(const Tensor& x) {
  const Carrier carrier = carrier_of(x);
  STD_TORCH_CHECK(carrier != Carrier::FLOAT64, "limprec: no narrow storage of float64");
  return carrier;
}

int64_t element_size(const Tensor& x) {
  const Memory memory = memory_of(x);
  return memory == Memory::E4M3 || memory == Memory::E5M2 || memory == Memory::INT8 ? 1 : 2;
}

const char* source(const Tensor& x) { return static_cast<const char*>(x.const_data_ptr()); }
char* target(const Tensor& x) { return static_cast<char*>(x.mutable_data_ptr()); }

Dims dims_of(const Tensor& x, const Tensor& y, bool any_order) {
  const auto sizes = x.sizes(), others = y.sizes(), from = x.strides(), to = y.strides();
  STD_TORCH_CHECK(std::equal(sizes.begin(), sizes.end(), others.begin(), others.end()),
                  "limprec: the shapes differ");
  return join(sizes.data(), from.data(), to.data(), x.dim(), any_order);
}

// A request to round x to codes of a format with one scale or none.
class CodesRequest {
 public:
  CodesRequest(const Tensor& x, const Tensor& codes, const Tensor& scale, int64_t spec,
               const Key& key, int64_t offset)
      : x_(x),
        codes_(codes),
        scale_(static_cast<float*>(scale.mutable_data_ptr())),
        plan_(plan_of(spec, narrow_carrier_of(x), key)),
        level_(level_of(plan_.simd)),
        first_(static_cast<uint64_t>(offset)),
        drain_{code_kernels(plan_.simd), {memory_of(codes), {1, 1}}, plan_.carrier} {
    const bool dynamic = plan_.kind == Kind::DYNAMIC && plan_.groups.span == Span::TENSOR;
    STD_TORCH_CHECK(dynamic || plan_.kind == Kind::FIXED || plan_.kind == Kind::FLOATING,
                    "limprec: no narrow storage of this format");
    const double most = drain_.counting.memory == Memory::INT8    ? 0x1p7
                        : drain_.counting.memory == Memory::INT16 ? 0x1p15
                                                                  : 0;
    const Wide& w = plan_.wide;
    STD_TORCH_CHECK((most == 0) == (plan_.kind == Kind::FLOATING) &&
                        (most == 0 || (w.code_max < most && w.code_min >= -most)),
                    "limprec: the dtype of the codes does not hold them");
    STD_TORCH_CHECK(scale.scalar_type() == ScalarType::Float && scale.numel() == 1,
                    "limprec: the scale is one float32");
  }

  void run() {
    *scale_ = 1;
    if (x_.numel() == 0) return plan_.kind == Kind::FIXED ? count_in(plan_.wide.unit_exponent) : void();
    const bool any_order = plan_.rounding != Rounding::STOCHASTIC;
    const Dims dims = dims_of(x_, codes_, any_order);
    const int64_t size = element_size(codes_);
    if (is_flat(dims)) return round(FlatCodes{flat(), drain_, target(codes_), size});
    const auto as = [&](auto value, auto code) {
      using T = decltype(value);
      using U = decltype(code);
      const T* in = reinterpret_cast<const T*>(source(x_));
      if (is_gathered(dims, any_order))
        return round(GatheredCodes<T>{{flat(), {in, dims}}, {flat(), drain_, target(codes_), size}});
      const Strided<T> values{level_, plan_.carrier, in, nullptr, Runs(dims), first_};
      round(StridedCodes<T, U>{values, drain_, reinterpret_cast<U*>(target(codes_))});
    };
    if (plan_.carrier == Carrier::FLOAT32)
      return size == 1 ? as(uint32_t{}, uint8_t{}) : as(uint32_t{}, uint16_t{});
    size == 1 ? as(uint16_t{}, uint8_t{}) : as(uint16_t{}, uint16_t{});
  }

  // Of a part of a tensor in which that magnitude is the largest.
  void run_part(int64_t magnitude) {
    STD_TORCH_CHECK(plan_.kind == Kind::DYNAMIC, "limprec: this format has no dynamic scale");
    *scale_ = 1;
    if (x_.numel() == 0) return;
    STD_TORCH_CHECK(x_.is_contiguous(), "limprec: a dense part is needed");
    Dims dims = dims_of(x_, codes_, false);
    if (dims.back().to != 1) dims.push_back({1, 1, 1, 1});
    Extremes found = NOTHING;
    found.magnitude = magnitude;
    drain_.straight = drain_.kernels.straight(plan_, drain_.counting.memory);
    const FlatCodes whole{flat(), drain_, target(codes_), element_size(codes_)};
    const bool indexed = plan_.rounding == Rounding::STOCHASTIC;
    is_flat(dims) ? round(whole, found) : round(PlacedCodes{whole, dims, indexed}, found);
  }

 private:
  Flat flat() const {
    return {level_, plan_.carrier, source(x_), nullptr, x_.numel(), first_};
  }

  template <class M>
  void round(const M& memory) {
    drain_.straight = drain_.kernels.straight(plan_, drain_.counting.memory);
    if (plan_.kind == Kind::FLOATING) return round_all(plan_, memory, nullptr);
    if (plan_.kind == Kind::FIXED) {
      count_in(plan_.wide.unit_exponent);
      round_all(plan_, memory, nullptr);
      if (drain_.nan) *scale_ = std::numeric_limits<float>::quiet_NaN();
      return;
    }
    round(memory, extremes_of(plan_, memory));
  }

  template <class M>
  void round(const M& memory, const Extremes& found) {
    const double top = largest(plan_, found);
    int exponent = 0;
    if (std::isfinite(top)) std::frexp(top, &exponent);
    exponent = top > 0 ? exponent - plan_.scaling.below - 1 : 0;
    count_in(exponent);
    if (!std::isfinite(top) || exponent < -126 || exponent > 126) drain_.straight = nullptr;
    round_all(plan_, memory, &found);
    if (!std::isfinite(top)) *scale_ = std::numeric_limits<float>::quiet_NaN();
  }

  // Let a code stand for 2^exponent, or for float32's last digit: no value has digits below.
  void count_in(int exponent) {
    exponent = std::max(exponent, -149);
    *scale_ = std::ldexp(1.0f, exponent);
    const int first = std::min(-exponent, 126);
    drain_.counting.factors[0] = std::ldexp(1.0f, first);
    drain_.counting.factors[1] = std::ldexp(1.0f, -exponent - first);
  }

  const Tensor &x_, &codes_;
  float* scale_;
  Plan plan_;
  Level level_;
  uint64_t first_;
  Drain drain_;
};

void round_to_codes_keyed(Tensor x, Tensor codes, Tensor scale, int64_t spec, int64_t seed,
                          int64_t stream, int64_t step, int64_t offset) {
  CodesRequest(x, codes, scale, spec, make_key(seed, stream, step), offset).run();
}
void round_part_to_codes(Tensor x, Tensor codes, Tensor scale, int64_t spec, int64_t magnitude,
                         int64_t seed, int64_t stream, int64_t step, int64_t offset) {
  CodesRequest(x, codes, scale, spec, make_key(seed, stream, step), offset).run_part(magnitude);
}

// The bits of the largest magnitude: a NaN's are larger than all numbers'.
int64_t magnitude(Tensor x, int64_t spec) {
  STD_TORCH_CHECK(x.is_contiguous(), "limprec: a dense tensor is needed");
  const Plan plan = plan_of(spec, narrow_carrier_of(x), make_key(0, 0, 0));
  const Flat flat{level_of(plan.simd), plan.carrier, source(x), nullptr, x.numel(), 0};
  return static_cast<int64_t>(extremes_of(plan, flat).magnitude);
}
void round_to_codes(Tensor x, Tensor codes, Tensor scale, int64_t spec) {
  round_to_codes_keyed(x, codes, scale, spec, 0, 0, 0, 0);
}

// Shares n elements among threads, in pieces of whole tiles.
template <class Work>
void share(int64_t n, const Work& work) {
  in_parallel((n + TILE - 1) / TILE, Flat::GRAIN, [&](int64_t first, int64_t last) {
    const int64_t begin = first * TILE;
    work(begin, std::min(n, last * TILE) - begin);
  });
}

void widen_codes(Tensor codes, Tensor scale, Tensor out, int64_t simd) {
  STD_TORCH_CHECK(scale.scalar_type() == ScalarType::Float && scale.numel() == 1,
                  "limprec: the scale is one float32");
  const Carrier carrier = narrow_carrier_of(out);
  const Memory memory = memory_of(codes);
  if (codes.numel() == 0) return;
  if (!is_flat(dims_of(codes, out, true))) {
    Tensor rows = torch::stable::new_empty(codes, codes.sizes());
    Tensor wide = torch::stable::new_empty(out, out.sizes());
    torch::stable::copy_(rows, codes);
    widen_codes(rows, scale, wide, simd);
    torch::stable::copy_(out, wide);
    return;
  }
  const CodeKernels& kernels = code_kernels(static_cast<Simd>(simd));
  const float factor = *static_cast<const float*>(scale.const_data_ptr());
  const int64_t size = element_size(codes);
  share(codes.numel(), [&](int64_t at, int64_t n) {
    kernels.widen(memory, factor, carrier, source(codes) + at * size,
                  target(out) + at * size_of(carrier), n);
  });
}

// Masks

// The bits of a mask of n elements.
uint8_t* bits_of(const Tensor& mask, int64_t n) {
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Byte && mask.is_contiguous() &&
                      mask.numel() == (n + 7) / 8,
                  "limprec: a mask has a bit for each element, in uint8");
  return static_cast<uint8_t*>(mask.mutable_data_ptr());
}

void check_flat(const Tensor& x, const Tensor& y) {
  STD_TORCH_CHECK(x.scalar_type() == y.scalar_type() &&
                      (x.numel() == 0 || is_flat(dims_of(x, y, true))),
                  "limprec: a mask follows dense memory, and both tensors have to");
}

void relu_with_mask(Tensor x, Tensor y, Tensor mask, double ceiling, int64_t simd) {
  const Carrier carrier = narrow_carrier_of(x);
  uint8_t* bits = bits_of(mask, x.numel());
  const int64_t size = size_of(carrier);
  const float top = static_cast<float>(ceiling);
  const CodeKernels& kernels = code_kernels(static_cast<Simd>(simd));
  check_flat(x, y);
  share(x.numel(), [&](int64_t at, int64_t n) {
    kernels.relu(carrier, top, source(x) + at * size, target(y) + at * size, bits + at / 8, n);
  });
}

void masked(Tensor grad, Tensor mask, Tensor out, int64_t simd) {
  const Carrier carrier = narrow_carrier_of(grad);
  const uint8_t* bits = bits_of(mask, grad.numel());
  const int64_t size = size_of(carrier);
  const CodeKernels& kernels = code_kernels(static_cast<Simd>(simd));
  check_flat(grad, out);
  share(grad.numel(), [&](int64_t at, int64_t n) {
    kernels.mask(carrier, source(grad) + at * size, bits + at / 8, target(out) + at * size, n);
  });
}

}  // namespace
}  // namespace limprec

STABLE_TORCH_LIBRARY_FRAGMENT(limprec, m) {
  m.def("round_to_codes(Tensor x, Tensor(a!) codes, Tensor(b!) scale, int spec) -> ()");
  m.def("round_to_codes.keyed(Tensor x, Tensor(a!) codes, Tensor(b!) scale, int spec, " LIMPREC_KEY
        ") -> ()");
  m.def("round_part_to_codes(Tensor x, Tensor(a!) codes, Tensor(b!) scale, int spec, int magnitude, "
        LIMPREC_KEY ") -> ()");
  m.def("magnitude(Tensor x, int spec) -> int");
  m.def("widen_codes(Tensor codes, Tensor scale, Tensor(a!) out, int simd) -> ()");
  m.def("relu_with_mask(Tensor x, Tensor(a!) y, Tensor(b!) mask, float ceiling, int simd) -> ()");
  m.def("masked(Tensor grad, Tensor mask, Tensor(a!) out, int simd) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(limprec, CPU, m) {
  m.impl("round_to_codes", TORCH_BOX(&limprec::round_to_codes));
  m.impl("round_to_codes.keyed", TORCH_BOX(&limprec::round_to_codes_keyed));
  m.impl("round_part_to_codes", TORCH_BOX(&limprec::round_part_to_codes));
  m.impl("magnitude", TORCH_BOX(&limprec::magnitude));
  m.impl("widen_codes", TORCH_BOX(&limprec::widen_codes));
  m.impl("relu_with_mask", TORCH_BOX(&limprec::relu_with_mask));
  m.impl("masked", TORCH_BOX(&limprec::masked));
}
