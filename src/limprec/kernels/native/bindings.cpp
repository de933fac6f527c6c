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

#include "plan.h"
#include "strided.h"

namespace limprec {
namespace {

using torch::stable::Tensor;

constexpr int64_t TILE = 4096;  // elements

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

// Flat memory. Work comes in tiles whose global index begins at a multiple of TILE.
struct Flat {
  const Kernels& k;
  Carrier carrier;
  const char* x;
  char* y;
  int64_t n;
  uint64_t offset;

  static constexpr int64_t GRAIN = 4;  // fewer tiles are not worth another thread
  int64_t lead() const { return static_cast<int64_t>(offset % TILE); }
  int64_t count() const { return (lead() + n + TILE - 1) / TILE; }
  int64_t begin(int64_t tile) const { return std::max(int64_t{0}, tile * TILE - lead()); }
  int64_t end(int64_t tile) const { return std::min(n, tile * TILE - lead()); }

  uint64_t largest(int64_t first, int64_t last) const {
    return k.largest(carrier, x + begin(first) * size_of(carrier), end(last) - begin(first));
  }
  void round(const Plan& plan, int64_t first, int64_t last) const {
    const int64_t at = begin(first), bytes = at * size_of(carrier);
    k.round(plan, x + bytes, y + bytes, end(last) - at, offset + static_cast<uint64_t>(at));
  }
};

// Any other layout, through a buffer. T has the size of an element.
template <class T>
struct Strided {
  const Kernels& k;
  Carrier carrier;
  const T* x;
  T* y;
  Runs runs;
  uint64_t offset;

  static constexpr int64_t GRAIN = 4 * TILE / Runs::LENGTH;
  int64_t count() const { return runs.count(); }

  void gather(T* buffer, int64_t length, int64_t from) const {
    const int64_t stride = runs.inner().from;
    for (int64_t i = 0; i < length; i++) buffer[i] = x[from + i * stride];
  }
  uint64_t largest(int64_t first, int64_t last) const {
    uint64_t most = 0;
    runs.each(first, last, [&](int64_t length, int64_t from, int64_t, int64_t) {
      T buffer[Runs::LENGTH];
      gather(buffer, length, from);
      most = std::max(most, k.largest(carrier, buffer, length));
    });
    return most;
  }
  void round(const Plan& plan, int64_t first, int64_t last) const {
    const int64_t stride = runs.inner().to;
    runs.each(first, last, [&](int64_t length, int64_t from, int64_t to, int64_t index) {
      T buffer[Runs::LENGTH];
      gather(buffer, length, from);
      k.round(plan, buffer, buffer, length, offset + static_cast<uint64_t>(index));
      for (int64_t i = 0; i < length; i++) y[to + i * stride] = buffer[i];
    });
  }
};

// What a bit pattern of Kernels::largest stands for.
double magnitude(Carrier carrier, uint64_t pattern) {
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

template <class Memory, class Work>
void in_parallel(const Memory& memory, const Work& work) {
  const int64_t count = memory.count();
  if (count <= Memory::GRAIN) return work(int64_t{0}, count);
  torch::stable::parallel_for(0, count, Memory::GRAIN, work);
}

template <class Memory>
void round_all(Plan plan, const Memory& memory) {
  const bool dynamic = plan.kind == Kind::DYNAMIC;
  if (dynamic) {
    std::atomic<uint64_t> most{0};
    in_parallel(memory, [&](int64_t first, int64_t last) {
      const uint64_t mine = memory.largest(first, last);
      uint64_t seen = most.load();
      while (mine > seen && !most.compare_exchange_weak(seen, mine)) {
      }
    });
    set_scale(plan, magnitude(plan.carrier, most.load()));
  }
  in_parallel(memory, [&](int64_t first, int64_t last) {
    // A dynamic format reads twice: backwards, the second pass meets what the first left in cache.
    const int64_t step = dynamic ? 4 * Memory::GRAIN : last - first;
    for (int64_t stop = last; stop > first; stop -= step)
      memory.round(plan, std::max(first, stop - step), stop);
  });
}

void round_into(const Tensor& x, const Tensor& out, int64_t spec, const Key& key, int64_t offset) {
  const int64_t n = x.numel();
  if (n == 0) return;
  const Plan plan = make_plan(spec, carrier_of(x), key);
  const Kernels& k = kernels(plan.simd);
  const int64_t size = size_of(plan.carrier);
  const uint64_t first = static_cast<uint64_t>(offset);
  const char* source = static_cast<const char*>(x.const_data_ptr());
  char* target = static_cast<char*>(out.mutable_data_ptr());
  // `reach`: how many elements of memory a tensor spans.
  const auto apart = [&](int64_t source_reach, int64_t target_reach) {
    return source + source_reach * size <= target || target + target_reach * size <= source;
  };

  const bool plain = x.is_contiguous() && out.is_contiguous();
  if (plain && (source == target || apart(n, n)))
    return round_all(plan, Flat{k, plan.carrier, source, target, n, first});

  const auto sizes = x.sizes(), from = x.strides(), to = out.strides();
  const bool any_order = plan.rounding != Rounding::STOCHASTIC;
  const Dims dims = join(sizes.data(), from.data(), to.data(), x.dim(), any_order);
  const bool in_place = source == target && std::all_of(dims.begin(), dims.end(),
                                                        [](const Dim& d) { return d.from == d.to; });
  if (!(in_place || apart(reach(dims, &Dim::from), reach(dims, &Dim::to))) || !is_injective(dims)) {
    // Rounding would overwrite what is still to be read: round a copy.
    for (const Dim& d : dims)
      STD_TORCH_CHECK(d.to != 0, "limprec: elements of out share memory; clone it first");
    Tensor copy = torch::stable::new_empty(x, x.sizes()), result = out;
    torch::stable::copy_(copy, x);
    round_into(copy, copy, spec, key, offset);
    torch::stable::copy_(result, copy);
    return;
  }
  if (is_flat(dims)) return round_all(plan, Flat{k, plan.carrier, source, target, n, first});
  const auto strided = [&](auto element) {
    using T = decltype(element);
    const T* in = reinterpret_cast<const T*>(source);
    round_all(plan, Strided<T>{k, plan.carrier, in, reinterpret_cast<T*>(target), Runs(dims), first});
  };
  size == 2 ? strided(uint16_t{}) : size == 4 ? strided(uint32_t{}) : strided(uint64_t{});
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
