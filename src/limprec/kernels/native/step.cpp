// The operator torch.ops.limprec.step_: unpacks a request (steps.py packs it), brings the tensors to
// flat memory, and shares the elements of many parameters among PyTorch's threads.
#include "step.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "dtypes.h"
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
  for (size_t i = 0; i < scalars.size(); i++)  // a NaN with nothing in its lower half
    plan.scalars[i] = std::isnan(scalars[i]) ? std::nanf("") : static_cast<float>(scalars[i]);

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
class FlatParameter {
 public:
  // kept: the tensors that are written, in the order of `each`.
  FlatParameter(const StepPlan& plan, const Tensor& grad, const Tensor* kept, bool any_order) {
    slot.n = kept[0].numel();
    bool plain = true;
    const auto check = [&](const Tensor& x, int32_t wanted, int64_t count) {
      int32_t dtype;
      STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(x.get(), &dtype));
      STD_TORCH_CHECK(dtype == wanted && x.numel() == count,
                      "limprec: a tensor of another dtype or size than the spec says");
      plain = plain && x.is_contiguous();
    };
    check(grad, dtype_of(plan.grad), slot.n);
    each(plan, [&](size_t i, Memory memory, void*&) { check(kept[i], dtype_of(memory), slot.n); });
    each_scale(plan, [&](size_t i, uint8_t*&) {
      check(kept[i], aoti_torch_dtype_uint8(), (slot.n + BLOCK - 1) / BLOCK);
    });
    if (!plain && any_order) {
      plain = lie_alike(kept[0], grad);
      each(plan, [&](size_t i, Memory, void*&) { plain = plain && lie_alike(kept[0], kept[i]); });
    }
    slot.grad = plain || grad.is_contiguous() ? grad.const_data_ptr() : copy(grad).const_data_ptr();
    const auto memory_of = [&](const Tensor& x) {
      if (plain || x.is_contiguous()) return x.mutable_data_ptr();
      written_.emplace_back(x, copy(x));
      return written_.back().second.mutable_data_ptr();
    };
    each(plan, [&](size_t i, Memory, void*& place) { place = memory_of(kept[i]); });
    each_scale(plan, [&](size_t i, uint8_t*& place) {
      place = static_cast<uint8_t*>(memory_of(kept[i]));
    });
  }

  void put_back() {
    for (auto& [own, flat] : written_) torch::stable::copy_(own, flat);
  }

  // How many tensors of a parameter are written: itself, the carry, the states, their scales.
  static size_t count(const StepPlan& plan) {
    size_t n = 1 + plan.has_carry + static_cast<size_t>(plan.states);
    for (int k = 0; k < plan.states; k++) n += plan.state[k].in_blocks;
    return n;
  }

  StepSlot slot{};

 private:
  template <class Visit>
  void each(const StepPlan& plan, const Visit& visit) {
    size_t i = 0;
    visit(i++, plan.parameter.memory, slot.p);
    if (plan.has_carry) visit(i++, plan.carry.memory, slot.carry);
    for (int k = 0; k < plan.states; k++) visit(i++, plan.state[k].memory, slot.state[k]);
  }
  template <class Visit>
  void each_scale(const StepPlan& plan, const Visit& visit) {
    size_t i = 1 + plan.has_carry + static_cast<size_t>(plan.states);
    for (int k = 0; k < plan.states; k++)
      if (plan.state[k].in_blocks) visit(i++, slot.scale[k]);
  }

  const Tensor& copy(const Tensor& x) {
    Tensor flat = torch::stable::new_empty(x, x.sizes());
    torch::stable::copy_(flat, x);
    copies_.push_back(flat);
    return copies_.back();
  }

  std::vector<std::pair<Tensor, Tensor>> written_;
  std::vector<Tensor> copies_;
};

bool takes_random_bits(const StepPlan& plan) {
  bool any = plan.parameter.plan.rounding == Rounding::STOCHASTIC && !plan.parameter.exact;
  any = any || (plan.has_carry && plan.carry.plan.rounding == Rounding::STOCHASTIC);
  for (int k = 0; k < plan.states; k++)
    any = any || plan.state[k].in_blocks || plan.state[k].plan.rounding == Rounding::STOCHASTIC;
  return any;
}

// What stays the same from step to step: the tensors that are written, those of one parameter after
// those of the other, and where their random bits are.
struct Lineup {
  std::vector<Tensor> kept;
  std::vector<int64_t> request, streams, offsets;
};

void step_all(const Lineup& lineup, const std::vector<Tensor>& grads,
              const std::vector<double>& scalars, int64_t simd, int64_t seed, int64_t step) {
  STD_TORCH_CHECK(step >= 0 && step < int64_t{1} << 32, "limprec: a random key out of range");
  const Key key{static_cast<uint64_t>(seed), 0, static_cast<uint32_t>(step)};
  const StepPlan plan = make_step_plan(lineup.request, scalars, key);
  const StepKernels& k = step_kernels(static_cast<Simd>(simd));
  const size_t each = FlatParameter::count(plan), count = grads.size();
  STD_TORCH_CHECK(lineup.kept.size() == each * count && lineup.streams.size() == count &&
                      lineup.offsets.size() == count,
                  "limprec: tensors and keys do not match");
  const bool any_order = !takes_random_bits(plan);

  std::vector<FlatParameter> all;
  std::vector<int64_t> first_tile{0};  // of each parameter, and the end
  all.reserve(count);
  first_tile.reserve(count + 1);
  for (size_t i = 0; i < count; i++) {
    const int64_t stream = lineup.streams[i], offset = lineup.offsets[i];
    STD_TORCH_CHECK(stream >= 0 && stream < LAST_STREAM && offset >= 0,
                    "limprec: a random key out of range");
    all.emplace_back(plan, grads[i], &lineup.kept[each * i], any_order);
    StepSlot& slot = all.back().slot;
    slot.stream = static_cast<uint32_t>(stream);
    slot.offset = static_cast<uint64_t>(offset);
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
  for (FlatParameter& flat : all) flat.put_back();
}

void step_(std::vector<Tensor> grads, std::vector<Tensor> kept, std::vector<int64_t> request,
           std::vector<double> scalars, int64_t simd, int64_t seed, int64_t step,
           std::vector<int64_t> streams, std::vector<int64_t> offsets) {
  step_all({std::move(kept), std::move(request), std::move(streams), std::move(offsets)}, grads,
           scalars, simd, seed, step);
}

// Lineups by number, so that a step of many small tensors need not hand them all over again. They
// hold the tensors themselves, whose memory is looked up anew at every step.
class Lineups {
 public:
  int64_t add(Lineup lineup) {
    const std::lock_guard<std::mutex> lock(mutex_);
    all_.emplace(++last_, std::make_shared<const Lineup>(std::move(lineup)));
    return last_;
  }
  std::shared_ptr<const Lineup> find(int64_t number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = all_.find(number);
    STD_TORCH_CHECK(found != all_.end(), "limprec: a lineup that was let go");
    return found->second;
  }
  void remove(int64_t number) {
    const std::lock_guard<std::mutex> lock(mutex_);
    all_.erase(number);
  }
  static Lineups& here() {
    static Lineups& all = *new Lineups;  // never destroyed: PyTorch may be gone before
    return all;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<int64_t, std::shared_ptr<const Lineup>> all_;
  int64_t last_ = 0;
};

int64_t line_up(std::vector<Tensor> kept, std::vector<int64_t> request,
                std::vector<int64_t> streams, std::vector<int64_t> offsets) {
  return Lineups::here().add(
      {std::move(kept), std::move(request), std::move(streams), std::move(offsets)});
}

void step_lineup(int64_t lineup, std::vector<Tensor> grads, std::vector<double> scalars,
                 int64_t seed, int64_t step) {
  step_all(*Lineups::here().find(lineup), grads, scalars, 0, seed, step);
}

void let_go(int64_t lineup) { Lineups::here().remove(lineup); }

}  // namespace
}  // namespace limprec

STABLE_TORCH_LIBRARY_FRAGMENT(limprec, m) {
  m.def(
      "step_(Tensor[] grads, Tensor(a!)[] kept, int[] request, float[] scalars, int simd, int seed,"
      " int step, int[] streams, int[] offsets) -> ()");
  m.def("line_up(Tensor[] kept, int[] request, int[] streams, int[] offsets) -> int");
  m.def("step_lineup(int lineup, Tensor[] grads, float[] scalars, int seed, int step) -> ()");
  m.def("let_go(int lineup) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(limprec, CPU, m) {
  m.impl("step_", TORCH_BOX(&limprec::step_));
  m.impl("line_up", TORCH_BOX(&limprec::line_up));
  m.impl("step_lineup", TORCH_BOX(&limprec::step_lineup));
}

STABLE_TORCH_LIBRARY_IMPL(limprec, CompositeExplicitAutograd, m) {
  m.impl("let_go", TORCH_BOX(&limprec::let_go));
}
