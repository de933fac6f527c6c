// The operator torch.ops.limprec.step_: unpacks a request (steps.py packs it), brings the tensors to
// flat memory, and shares the elements of many parameters among PyTorch's threads.
#include "step.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "simd.h"
#include "strided.h"

namespace limprec {
namespace {

using torch::stable::Tensor;

constexpr int64_t TILE = 1 << 13;  // elements: a piece of work
constexpr int64_t SERIAL = 2;      // tiles that are not worth another thread
constexpr int64_t LAST_STREAM = (int64_t{1} << 32) - STATE_PLACE - MAX_STATES;

const StepKernels& step_kernels(Simd asked) {
  const Simd level = usable_simd(asked);
#if defined(LIMPREC_X86)
  if (level == Simd::AVX512) return STEP_AVX512;
  if (level == Simd::AVX2) return STEP_AVX2;
#endif
  (void)level;
  return STEP_PORTABLE;
}

// Unpacking

int32_t dtype_of(Memory memory) {
  switch (memory) {
    case Memory::FLOAT32:
      return aoti_torch_dtype_float32();
    case Memory::BFLOAT16:
      return aoti_torch_dtype_bfloat16();
    case Memory::FLOAT16:
      return aoti_torch_dtype_float16();
    case Memory::E4M3:
      return aoti_torch_dtype_float8_e4m3fn();
    case Memory::E5M2:
      return aoti_torch_dtype_float8_e5m2();
    case Memory::INT8:
      return aoti_torch_dtype_int8();
    case Memory::INT16:
      return aoti_torch_dtype_int16();
  }
  return -1;
}

// Reads the numbers of a request one by one.
class Request {
 public:
  explicit Request(const std::vector<int64_t>& numbers) : numbers_(numbers) {}
  int64_t take() {
    STD_TORCH_CHECK(next_ < numbers_.size(), "limprec: the request is too short");
    return numbers_[next_++];
  }
  template <class T>
  T take_as() {
    return static_cast<T>(take());
  }

 private:
  const std::vector<int64_t>& numbers_;
  size_t next_ = 0;
};

Storage take_storage(Request& request, const Key& key) {
  Storage s{};
  s.plan = make_plan(request.take(), Carrier::FLOAT32, key);
  s.memory = request.take_as<Memory>();
  s.own = request.take() != 0;
  s.exact = request.take() != 0;
  s.ulp_bits = request.take_as<int>();
  s.in_blocks = request.take() != 0;
  s.above_zero = request.take() != 0;
  const Wide& w = s.plan.wide;
  if (s.plan.kind == Kind::FLOATING) {
    s.max_exponent = std::ilogb(w.max);
    s.smallest = std::ldexp(1.0f, w.min_exponent - (w.subnormals ? w.mantissa_bits : 0));
  }
  return s;
}

Ulp ulp_of(const Plan& plan) {
  const Wide& w = plan.wide;
  if (plan.kind == Kind::FIXED) return {0, w.unit_exponent, true, 0};
  const float normal = std::ldexp(1.0f, w.min_exponent);
  uint32_t flushed = 0;
  if (!w.subnormals) std::memcpy(&flushed, &normal, sizeof flushed);
  return {w.mantissa_bits, w.min_exponent, false, flushed};
}

StepPlan make_step_plan(const std::vector<int64_t>& numbers, const std::vector<double>& scalars,
                        const Key& key) {
  Request request(numbers);
  StepPlan plan{};
  plan.rule = request.take_as<Rule>();
  plan.flags = request.take_as<uint32_t>();
  plan.strategy = request.take_as<WriteBack>();
  plan.grad = request.take_as<Memory>();
  plan.states = request.take_as<int>();
  plan.has_carry = request.take() != 0;
  const int64_t strict = request.take();  // a packed precision, or -1
  plan.strict = strict >= 0;
  if (plan.strict) plan.strict_plan = make_plan(strict, Carrier::FLOAT32, key);
  plan.parameter = take_storage(request, key);
  if (plan.has_carry) plan.carry = take_storage(request, key);
  STD_TORCH_CHECK(plan.states <= MAX_STATES && scalars.size() <= MAX_SCALARS,
                  "limprec: too many states or numbers");
  for (int k = 0; k < plan.states; k++) plan.state[k] = take_storage(request, key);
  for (size_t i = 0; i < scalars.size(); i++) plan.scalars[i] = static_cast<float>(scalars[i]);

  const Plan& own = plan.parameter.plan;
  const bool floating = own.kind == Kind::FLOATING;
  const double unit = std::ldexp(1.0, own.wide.unit_exponent);
  plan.max = static_cast<float>(floating ? own.wide.max : own.wide.code_max * unit);
  plan.min = static_cast<float>(floating ? -own.wide.max : own.wide.code_min * unit);
  plan.ulp = ulp_of(own);
  return plan;
}

// Tensors

// Whether two tensors of one shape lie in memory alike, without gaps.
bool lie_alike(const Tensor& a, const Tensor& b) {
  const auto sizes = a.sizes(), from = a.strides(), to = b.strides();
  return is_flat(join(sizes.data(), from.data(), to.data(), a.dim(), true));
}

// One parameter's tensors, as flat memory: their own where that will do, else row-major copies which
// `put_back` writes back.
class Flat {
 public:
  Flat(const StepPlan& plan, std::vector<Tensor>& tensors, size_t first, bool any_order) {
    const Tensor& p = tensors[first];
    slot.n = p.numel();
    bool plain = true;
    each(plan, [&](size_t i, Memory memory, bool is_scale) {
      const Tensor& x = tensors[first + i];
      int32_t dtype;
      STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
      const int32_t wanted = is_scale ? aoti_torch_dtype_uint8() : dtype_of(memory);
      const int64_t count = is_scale ? (slot.n + BLOCK - 1) / BLOCK : slot.n;
      STD_TORCH_CHECK(dtype == wanted && x.numel() == count,
                      "limprec: a tensor of another dtype or size than the spec says");
      plain = plain && x.is_contiguous();
    });
    if (!plain && any_order) {
      plain = true;
      each(plan, [&](size_t i, Memory, bool) { plain = plain && lie_alike(p, tensors[first + i]); });
    }
    each(plan, [&](size_t i, Memory, bool) {
      Tensor& x = tensors[first + i];
      const bool own = plain || x.is_contiguous();
      Tensor flat = own ? x : torch::stable::new_empty(x, x.sizes());
      if (!own) {
        torch::stable::copy_(flat, x);
        if (i != 1) copied_.emplace_back(x, flat);
        else gradient_.push_back(flat);
      }
      place(plan, i, i == 1 ? const_cast<void*>(flat.const_data_ptr()) : flat.mutable_data_ptr());
    });
  }

  void put_back() {
    for (auto& [own, flat] : copied_) torch::stable::copy_(own, flat);
  }

  // How many tensors a parameter has: itself, its gradient, the carry, the states, their scales.
  static size_t count(const StepPlan& plan) {
    size_t n = 0;
    each(plan, [&](size_t, Memory, bool) { n++; });
    return n;
  }

  StepSlot slot{};

 private:
  template <class Visit>
  static void each(const StepPlan& plan, const Visit& visit) {
    size_t i = 0;
    visit(i++, plan.parameter.memory, false);
    visit(i++, plan.grad, false);
    if (plan.has_carry) visit(i++, plan.carry.memory, false);
    for (int k = 0; k < plan.states; k++) visit(i++, plan.state[k].memory, false);
    for (int k = 0; k < plan.states; k++)
      if (plan.state[k].in_blocks) visit(i++, Memory::INT8, true);
  }

  void place(const StepPlan& plan, size_t i, void* data) {
    if (i == 0) slot.p = data;
    if (i == 1) slot.grad = data;
    if (i < 2) return;
    i -= 2;
    if (plan.has_carry && i-- == 0) {
      slot.carry = data;
      return;
    }
    const size_t states = static_cast<size_t>(plan.states);
    if (i < states) {
      slot.state[i] = data;
      return;
    }
    i -= states;
    for (size_t k = 0; k < states; k++)
      if (plan.state[k].in_blocks && i-- == 0) slot.scale[k] = static_cast<uint8_t*>(data);
  }

  std::vector<std::pair<Tensor, Tensor>> copied_;
  std::vector<Tensor> gradient_;
};

bool takes_random_bits(const StepPlan& plan) {
  bool any = plan.parameter.plan.rounding == Rounding::STOCHASTIC && !plan.parameter.exact;
  any = any || (plan.has_carry && plan.carry.plan.rounding == Rounding::STOCHASTIC);
  for (int k = 0; k < plan.states; k++)
    any = any || plan.state[k].in_blocks || plan.state[k].plan.rounding == Rounding::STOCHASTIC;
  return any;
}

// Tensors of all parameters, one parameter after the other.
void step_(std::vector<Tensor> tensors, std::vector<int64_t> request, std::vector<double> scalars,
           int64_t simd, int64_t seed, int64_t step, std::vector<int64_t> streams,
           std::vector<int64_t> offsets) {
  const Key key{static_cast<uint64_t>(seed), 0, static_cast<uint32_t>(step)};
  const StepPlan plan = make_step_plan(request, scalars, key);
  const StepKernels& k = step_kernels(static_cast<Simd>(simd));
  const size_t each = Flat::count(plan), count = streams.size();
  STD_TORCH_CHECK(tensors.size() == each * count && offsets.size() == count,
                  "limprec: tensors and keys do not match");
  const bool any_order = !takes_random_bits(plan);

  std::vector<Flat> all;
  std::vector<int64_t> first_tile{0};  // of each parameter, and the end
  all.reserve(count);
  for (size_t i = 0; i < count; i++) {
    all.emplace_back(plan, tensors, each * i, any_order);
    StepSlot& slot = all.back().slot;
    STD_TORCH_CHECK(streams[i] >= 0 && streams[i] < LAST_STREAM && offsets[i] >= 0 && step >= 0 &&
                        step < int64_t{1} << 32,
                    "limprec: a random key out of range");
    slot.stream = static_cast<uint32_t>(streams[i]);
    slot.offset = static_cast<uint64_t>(offsets[i]);
    first_tile.push_back(first_tile.back() + (slot.n + TILE - 1) / TILE);
  }
  const auto work = [&](int64_t begin, int64_t end) {
    const auto owner = std::upper_bound(first_tile.begin(), first_tile.end(), begin) - 1;
    for (size_t i = static_cast<size_t>(owner - first_tile.begin()); begin < end; i++) {
      const int64_t stop = std::min(end, first_tile[i + 1]), from = (begin - first_tile[i]) * TILE;
      const int64_t to = std::min(all[i].slot.n, (stop - first_tile[i]) * TILE);
      if (from < to) k.step(plan, all[i].slot, from, to);
      begin = stop;
    }
  };
  const int64_t tiles = first_tile.back();
  if (tiles <= SERIAL)
    work(0, tiles);
  else
    torch::stable::parallel_for(0, tiles, SERIAL, work);
  for (Flat& flat : all) flat.put_back();
}

}  // namespace
}  // namespace limprec

STABLE_TORCH_LIBRARY_FRAGMENT(limprec, m) {
  m.def(
      "step_(Tensor(a!)[] tensors, int[] request, float[] scalars, int simd, int seed, int step,"
      " int[] streams, int[] offsets) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(limprec, CPU, m) { m.impl("step_", TORCH_BOX(&limprec::step_)); }
