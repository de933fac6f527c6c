// The operators torch.ops.limprec.*, on LibTorch's stable ABI: one binary for every PyTorch from
// 2.10 on. Chooses the instruction set, shares the work among PyTorch's threads, and brings any
// layout to one that the kernels take.
#define Py_LIMITED_API 0x030b0000
#include <Python.h>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if defined(LIMPREC_X86)
#include <cpuid.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "plan.h"

namespace limprec {
namespace {

using torch::stable::Tensor;

constexpr int64_t TILE = 4096;          // elements; what a thread takes begins at a multiple
constexpr int64_t GRAIN = 4 * TILE;     // fewer are not worth another thread
constexpr int64_t REREAD = 16 * TILE;   // elements that surely stay in a core's own cache

Simd best_simd() {
#if defined(LIMPREC_X86)
  static const Simd best = [] {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return Simd::AVX512;
    unsigned a, b, c, d;
    const bool half = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
    return half && __builtin_cpu_supports("avx2") ? Simd::AVX2 : Simd::PORTABLE;
  }();
  return best;
#else
  return Simd::PORTABLE;
#endif
}

const Kernels& kernels(Simd asked) {
  const Simd best = best_simd(), level = asked == Simd::AUTO ? best : asked;
  STD_TORCH_CHECK(level <= best, "this CPU lacks the instruction set asked for");
#if defined(LIMPREC_X86)
  if (level == Simd::AVX512) return AVX512;
  if (level == Simd::AVX2) return AVX2;
#endif
  return PORTABLE;
}

Carrier carrier_of(const Tensor& x) {
  using torch::headeronly::ScalarType;
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Carrier::FLOAT32;
    case ScalarType::BFloat16:
      return Carrier::BFLOAT16;
    case ScalarType::Half:
      return Carrier::FLOAT16;
    case ScalarType::Double:
      return Carrier::FLOAT64;
    default:
      STD_TORCH_CHECK(false, "limprec rounds float32, float64, bfloat16 and float16 tensors");
  }
}

int64_t size_of(Carrier carrier) {
  return carrier == Carrier::FLOAT64 ? 8 : carrier == Carrier::FLOAT32 ? 4 : 2;
}

// Calls work(begin, end) for parts of the elements 0 to n, which begin where the global index is a
// multiple of TILE.
template <class Work>
void in_parallel(int64_t n, uint64_t index, const Work& work) {
  if (n <= GRAIN) return work(int64_t{0}, n);
  const int64_t lead = static_cast<int64_t>(index % TILE);
  torch::stable::parallel_for(
      0, (lead + n + TILE - 1) / TILE, GRAIN / TILE, [&](int64_t first, int64_t last) {
        work(std::max(int64_t{0}, first * TILE - lead), std::min(n, last * TILE - lead));
      });
}

double largest_magnitude(const Kernels& k, Carrier carrier, const char* x, int64_t n) {
  std::atomic<uint64_t> most{0};
  in_parallel(n, 0, [&](int64_t begin, int64_t end) {
    const uint64_t mine = k.largest(carrier, x + begin * size_of(carrier), end - begin);
    uint64_t seen = most.load();
    while (mine > seen && !most.compare_exchange_weak(seen, mine)) {
    }
  });
  const uint64_t pattern = most.load();
  if (carrier == Carrier::FLOAT64) {
    double value;
    std::memcpy(&value, &pattern, sizeof value);
    return value;
  }
  const uint32_t narrow = static_cast<uint32_t>(pattern);
  float value;
  std::memcpy(&value, &narrow, sizeof value);
  return value;
}

void round_flat(Plan plan, const char* x, char* y, int64_t n, uint64_t index) {
  const Kernels& k = kernels(plan.simd);
  const int64_t size = size_of(plan.carrier);
  const bool dynamic = plan.kind == Kind::DYNAMIC;
  if (dynamic) set_scale(plan, largest_magnitude(k, plan.carrier, x, n));
  in_parallel(n, index, [&](int64_t begin, int64_t end) {
    // A dynamic format reads twice: backwards, the second pass meets what the first left in cache.
    const int64_t step = dynamic ? REREAD : end - begin;
    for (int64_t stop = end; stop > begin; stop -= step) {
      const int64_t start = std::max(begin, stop - step);
      k.round(plan, x + start * size, y + start * size, stop - start,
              index + static_cast<uint64_t>(start));
    }
  });
}

// Whether the elements fill one block of memory, in any order of the dimensions.
bool is_dense(const Tensor& x) {
  const auto sizes = x.sizes(), strides = x.strides();
  std::vector<std::pair<int64_t, int64_t>> dims;
  for (size_t i = 0; i < sizes.size(); i++)
    if (sizes[i] != 1) dims.emplace_back(strides[i], sizes[i]);
  std::sort(dims.begin(), dims.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dims) {
    if (stride != expected) return false;
    expected *= size;
  }
  return true;
}

bool same_layout(const Tensor& x, const Tensor& y) {
  const auto a = x.strides(), b = y.strides();
  return std::equal(a.begin(), a.end(), b.begin(), b.end());
}

void round_into(const Tensor& x, const Tensor& out, int64_t spec, const Key& key, int64_t offset) {
  const int64_t n = x.numel();
  if (n == 0) return;
  const Plan plan = make_plan(spec, carrier_of(x), key);
  const bool in_order = x.is_contiguous() && out.is_contiguous();
  // Only random bits depend on the order of the elements.
  const bool any_order = plan.rounding != Rounding::STOCHASTIC;
  if (in_order || (any_order && same_layout(x, out) && is_dense(x))) {
    char* y = static_cast<char*>(out.mutable_data_ptr());
    const char* from = static_cast<const char*>(x.const_data_ptr());
    const int64_t bytes = n * size_of(plan.carrier);
    if (from == y || from + bytes <= y || y + bytes <= from)
      return round_flat(plan, from, y, n, static_cast<uint64_t>(offset));
  }
  Tensor copy = torch::stable::new_empty(x, x.sizes());
  torch::stable::copy_(copy, x);
  char* data = static_cast<char*>(copy.mutable_data_ptr());
  round_flat(plan, data, data, n, static_cast<uint64_t>(offset));
  Tensor target = out;
  torch::stable::copy_(target, copy);
}

Key make_key(int64_t seed, int64_t stream, int64_t step) {
  return {static_cast<uint64_t>(seed), static_cast<uint32_t>(stream), static_cast<uint32_t>(step)};
}

Tensor round_to(Tensor x, int64_t spec, int64_t seed, int64_t stream, int64_t step,
                int64_t offset) {
  Tensor out = torch::stable::empty_like(x);
  round_into(x, out, spec, make_key(seed, stream, step), offset);
  return out;
}

void round_to_(Tensor x, int64_t spec, int64_t seed, int64_t stream, int64_t step,
               int64_t offset) {
  round_into(x, x, spec, make_key(seed, stream, step), offset);
}

void round_to_out(Tensor x, Tensor out, int64_t spec, int64_t seed, int64_t stream, int64_t step,
                  int64_t offset) {
  const auto a = x.sizes(), b = out.sizes();
  STD_TORCH_CHECK(std::equal(a.begin(), a.end(), b.begin(), b.end()) &&
                      x.scalar_type() == out.scalar_type(),
                  "limprec: out must have the shape and dtype of x");
  round_into(x, out, spec, make_key(seed, stream, step), offset);
}

}  // namespace
}  // namespace limprec

// The key is symbolic, so that a compiled graph serves every training step.
#define LIMPREC_KEY "SymInt seed=0, SymInt stream=0, SymInt step=0, SymInt offset=0"

STABLE_TORCH_LIBRARY_FRAGMENT(limprec, m) {
  m.def("round_to(Tensor x, int spec, " LIMPREC_KEY ") -> Tensor");
  m.def("round_to_(Tensor(a!) x, int spec, " LIMPREC_KEY ") -> ()");
  m.def("round_to_out(Tensor x, Tensor(a!) out, int spec, " LIMPREC_KEY ") -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(limprec, CPU, m) {
  m.impl("round_to", TORCH_BOX(&limprec::round_to));
  m.impl("round_to_", TORCH_BOX(&limprec::round_to_));
  m.impl("round_to_out", TORCH_BOX(&limprec::round_to_out));
}

// Importing the module registers the operators; SIMD is the best instruction set of this CPU.
PyMODINIT_FUNC PyInit__C(void) {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr,
                                   nullptr,               nullptr, nullptr, nullptr};
  PyObject* module = PyModule_Create(&definition);
  if (module != nullptr)
    PyModule_AddIntConstant(module, "SIMD", static_cast<long>(limprec::best_simd()));
  return module;
}
