// The operators torch.ops.limprec.*, on LibTorch's stable ABI: one binary for every PyTorch from
// 2.10 on. Chooses the instruction set, shares the work among PyTorch's threads, and brings any
// layout to one that the kernels take.
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "call.h"
#include "gathered.h"
#include "grouped.h"

namespace limprec {
namespace {

using torch::stable::Tensor;

// A request to round x into out.
class Request {
 public:
  Request(const Tensor& x, const Tensor& out, int64_t spec, const Key& key, int64_t offset)
      : x_(x),
        out_(out),
        plan_(plan_of(spec, carrier_of(x), key)),
        level_(level_of(plan_.simd)),
        first_(static_cast<uint64_t>(offset)) {
    const bool wide_scale = plan_.kind == Kind::AFFINE || plan_.kind == Kind::NVFP4;
    STD_TORCH_CHECK(!wide_scale || size_of(plan_.carrier) > 2,
                    "limprec: 16-bit tensors do not carry formats with float32 scales");
    if (!grouped()) return;
    const int axis = plan_.groups.axis, rank = static_cast<int>(x.dim());
    const bool alone = rank == 0 && plan_.groups.span == Span::BLOCK;
    STD_TORCH_CHECK(alone || (-rank <= axis && axis < rank), "limprec: no such axis");
  }

  // The same for other tensors.
  Request(const Tensor& x, const Tensor& out, const Request& like)
      : x_(x),
        out_(out),
        plan_(like.plan_),
        level_(like.level_),
        first_(like.first_),
        given_(like.given_),
        tensor_scale_(like.tensor_scale_),
        found_(like.found_) {}

  // Let scales follow this magnitude instead of the elements.
  void give(double amax) {
    if (plan_.kind == Kind::NVFP4) {
      tensor_scale_ = true;
      return set_tensor_scale(plan_, static_cast<float>(amax));
    }
    given_ = true;
    plan_.groups.span = Span::TENSOR;
    // An MX block without a magnitude has the least scale of all.
    if (amax == 0 && plan_.kind == Kind::MICROSCALING) amax = 0x1p-149;
    const float narrow = static_cast<float>(amax);
    if (narrow != amax && plan_.kind != Kind::AFFINE) plan_.narrow = false;
    plan_.narrow ? std::memcpy(&found_.magnitude, &narrow, sizeof narrow)
                 : std::memcpy(&found_.magnitude, &amax, sizeof amax);
  }

  void run() {
    if (x_.numel() == 0) return;
    if (plain() && (x_.const_data_ptr() == out_.const_data_ptr() || apart(x_.numel(), x_.numel())))
      return grouped() ? round_groups(row_major()) : round(flat());
    const auto sizes = x_.sizes(), from = x_.strides(), to = out_.strides();
    const bool any_order = plan_.rounding != Rounding::STOCHASTIC;
    const Dims dims = join(sizes.data(), from.data(), to.data(), x_.dim(), any_order);
    const bool in_place =
        x_.const_data_ptr() == out_.const_data_ptr() &&
        std::all_of(dims.begin(), dims.end(), [](const Dim& d) { return d.from == d.to; });
    const bool safe = is_injective(dims) &&
                      (in_place || apart(reach(dims, &Dim::from), reach(dims, &Dim::to)));
    if (safe && grouped()) {
      Axis axis;
      if (any_order && is_dense(axis)) return round_groups(axis);
    } else if (safe) {
      return is_flat(dims) ? round(flat()) : strided(dims);
    }
    // Rounding would overwrite what is still to be read, or jump about: round a copy.
    for (const Dim& d : dims)
      STD_TORCH_CHECK(d.to != 0, "limprec: elements of out share memory; clone it first");
    Tensor copy = torch::stable::new_empty(x_, sizes), result = out_;
    torch::stable::copy_(copy, x_);
    Request(copy, copy, *this).run();
    torch::stable::copy_(result, copy);
  }

 private:
  const char* source() const { return static_cast<const char*>(x_.const_data_ptr()); }
  char* target() const { return static_cast<char*>(out_.mutable_data_ptr()); }
  bool grouped() const { return plan_.groups.span != Span::TENSOR; }
  bool plain() const { return x_.is_contiguous() && out_.is_contiguous(); }

  // Whether the memory of source and target is apart; how many elements each spans.
  bool apart(int64_t source_reach, int64_t target_reach) const {
    const int64_t size = size_of(plan_.carrier);
    return source() + source_reach * size <= target() || target() + target_reach * size <= source();
  }

  Flat flat() const { return {level_, plan_.carrier, source(), target(), x_.numel(), first_}; }

  template <class Memory>
  void round(const Memory& memory) const {
    round_whole(plan_, memory, given_ ? &found_ : nullptr);
  }

  void strided(const Dims& dims) const {
    const auto as = [&](auto element) {
      using T = decltype(element);
      const T* in = reinterpret_cast<const T*>(source());
      T* out = reinterpret_cast<T*>(target());
      if (is_gathered(dims, plan_.rounding != Rounding::STOCHASTIC))
        return round(Gathered<T>{flat(), {in, dims}});
      round(Strided<T>{level_, plan_.carrier, in, out, Runs(dims), first_});
    };
    const int64_t size = size_of(plan_.carrier);
    size == 2 ? as(uint16_t{}) : size == 4 ? as(uint32_t{}) : as(uint64_t{});
  }

  void round_groups(const Axis& axis) {
    if (plan_.kind == Kind::NVFP4 && !tensor_scale_)
      set_tensor_scale(plan_, static_cast<float>(largest(plan_, extremes_of(plan_, flat()))));
    Grouped(level_, plan_, source(), target(), first_).round(axis);
  }

  int64_t axis() const {
    const int64_t axis = plan_.groups.axis;
    return axis < 0 ? axis + x_.dim() : axis;
  }

  Axis row_major() const {
    const auto sizes = x_.sizes();
    if (x_.dim() == 0) return {1, 1, 1};
    Axis split{1, sizes[axis()], 1};
    for (int64_t i = 0; i < x_.dim(); i++)
      (i < axis() ? split.outer : split.inner) *= i == axis() ? 1 : sizes[i];
    return split;
  }

  // Whether both tensors fill their memory in the same order, which is another than row-major: then
  // the axis only lies elsewhere. (Groups do not depend on the order of the other axes.)
  bool is_dense(Axis& split) const {
    const auto sizes = x_.sizes(), from = x_.strides(), to = out_.strides();
    std::vector<int64_t> order;
    for (int64_t i = 0; i < x_.dim(); i++) {
      if (sizes[i] != 1 && from[i] != to[i]) return false;
      if (sizes[i] != 1) order.push_back(i);
    }
    std::sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return from[a] < from[b]; });
    int64_t inside = 1;
    split = {1, 1, 1};
    for (const int64_t i : order) {
      if (from[i] != inside) return false;
      if (i == axis()) split = {1, sizes[i], inside};
      inside *= sizes[i];
    }
    split.outer = inside / (split.length * split.inner);
    return true;
  }

  const Tensor &x_, &out_;
  Plan plan_;
  Level level_;
  uint64_t first_;
  bool given_ = false, tensor_scale_ = false;
  Extremes found_ = NOTHING;
};

void check_out(const Tensor& x, const Tensor& out) {
  const auto a = x.sizes(), b = out.sizes();
  STD_TORCH_CHECK(std::equal(a.begin(), a.end(), b.begin(), b.end()) &&
                      x.scalar_type() == out.scalar_type(),
                  "limprec: out must have the shape and dtype of x");
}

// The operators, without a key and with one.
Tensor round_to_keyed(Tensor x, int64_t spec, int64_t seed, int64_t stream, int64_t step,
                      int64_t offset) {
  Tensor out = torch::stable::empty_like(x);
  Request(x, out, spec, make_key(seed, stream, step), offset).run();
  return out;
}
Tensor round_to(Tensor x, int64_t spec) { return round_to_keyed(x, spec, 0, 0, 0, 0); }

void round_in_place_keyed(Tensor x, int64_t spec, int64_t seed, int64_t stream, int64_t step,
                          int64_t offset) {
  Request(x, x, spec, make_key(seed, stream, step), offset).run();
}
void round_in_place(Tensor x, int64_t spec) { round_in_place_keyed(x, spec, 0, 0, 0, 0); }

void round_into_keyed(Tensor x, Tensor out, int64_t spec, int64_t seed, int64_t stream,
                      int64_t step, int64_t offset) {
  check_out(x, out);
  Request(x, out, spec, make_key(seed, stream, step), offset).run();
}
void round_into(Tensor x, Tensor out, int64_t spec) { round_into_keyed(x, out, spec, 0, 0, 0, 0); }

void round_within_keyed(Tensor x, Tensor out, double amax, int64_t spec, int64_t seed,
                        int64_t stream, int64_t step, int64_t offset) {
  check_out(x, out);
  Request request(x, out, spec, make_key(seed, stream, step), offset);
  request.give(amax);
  request.run();
}
void round_within(Tensor x, Tensor out, double amax, int64_t spec) {
  round_within_keyed(x, out, amax, spec, 0, 0, 0, 0);
}

}  // namespace
}  // namespace limprec

STABLE_TORCH_LIBRARY_FRAGMENT(limprec, m) {
  m.def("round_to(Tensor x, int spec) -> Tensor");
  m.def("round_to.keyed(Tensor x, int spec, " LIMPREC_KEY ") -> Tensor");
  m.def("round_to_(Tensor(a!) x, int spec) -> ()");
  m.def("round_to_.keyed(Tensor(a!) x, int spec, " LIMPREC_KEY ") -> ()");
  m.def("round_to_out(Tensor x, Tensor(a!) out, int spec) -> ()");
  m.def("round_to_out.keyed(Tensor x, Tensor(a!) out, int spec, " LIMPREC_KEY ") -> ()");
  m.def("round_within(Tensor x, Tensor(a!) out, float amax, int spec) -> ()");
  m.def("round_within.keyed(Tensor x, Tensor(a!) out, float amax, int spec, " LIMPREC_KEY ") -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(limprec, CPU, m) {
  m.impl("round_to", TORCH_BOX(&limprec::round_to));
  m.impl("round_to.keyed", TORCH_BOX(&limprec::round_to_keyed));
  m.impl("round_to_", TORCH_BOX(&limprec::round_in_place));
  m.impl("round_to_.keyed", TORCH_BOX(&limprec::round_in_place_keyed));
  m.impl("round_to_out", TORCH_BOX(&limprec::round_into));
  m.impl("round_to_out.keyed", TORCH_BOX(&limprec::round_into_keyed));
  m.impl("round_within", TORCH_BOX(&limprec::round_within));
  m.impl("round_within.keyed", TORCH_BOX(&limprec::round_within_keyed));
}

// Importing the module registers the operators; SIMD is the best instruction set of this CPU, STAMP
// tells which Python sources the requests are packed by.
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr,
                                   nullptr,               nullptr, nullptr, nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (module != nullptr) {
    PyModule_AddIntConstant(module, "SIMD", static_cast<long>(limprec::best_simd()));
    PyModule_AddIntConstant(module, "STAMP", static_cast<long>(LIMPREC_STAMP));
  }
  return module;
}
