// The operator torch.ops.limprec.matmul_at_precision: derives the facts of a request and shares the
// blocks of the result among PyTorch's threads.
#include "matmul.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <new>

#include "simd.h"

namespace limprec {
namespace {

using torch::stable::Tensor;

constexpr int64_t BLOCK_ROWS = 128;
constexpr size_t ALIGNMENT = 64;
constexpr int64_t SERIAL = 1 << 15;  // multiply-adds that are not worth another thread

uint64_t double_bits(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits & ~(uint64_t{1} << 63);
}

uint32_t float_bits(double value) {
  const float narrow = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &narrow, sizeof bits);
  return bits & 0x7fffffffu;
}

DoubleFormat double_format(const Plan& plan) {
  const Wide& w = plan.wide;
  DoubleFormat p{};
  p.fixed = plan.kind == Kind::FIXED;
  p.rounding = plan.rounding;
  if (p.fixed) {
    p.unit = std::ldexp(1.0, w.unit_exponent);
    p.per_unit = std::ldexp(1.0, -w.unit_exponent);
    p.code_min = w.code_min, p.code_max = w.code_max, p.modulus = w.modulus;
    p.per_modulus = w.modulus != 0 ? 1 / w.modulus : 0;
    return p;
  }
  const int unit = w.min_exponent - (w.subnormals ? w.mantissa_bits : 0);
  p.unit = std::ldexp(1.0, unit);
  p.per_unit = std::ldexp(1.0, -unit);
  p.dropped = 52 - w.mantissa_bits;
  p.mantissa_bits = w.mantissa_bits;
  p.min_exponent = w.min_exponent;
  p.low = (uint64_t{1} << p.dropped) - 1;
  p.odd = 1;
  p.half = uint64_t{1} << (p.dropped - 1);
  p.limit = double_bits(std::ldexp(1.0, w.min_exponent));
  p.max = double_bits(w.max);
  for (int s = 0; s < 2; s++) p.beyond[s] = double_bits(w.beyond[s]);
  p.infinite = double_bits(w.infinite);
  p.zero = w.zero;
  return p;
}

// Whether sums that are rounded to odd in float32 can be rounded to the format in float32: at least
// two bits to spare, also among the subnormal numbers, and units that have an inverse.
bool float_format(const Plan& plan, FloatFormat& f) {
  const Wide& w = plan.wide;
  const int m = w.mantissa_bits, unit = w.min_exponent - (w.subnormals ? m : 0);
  if (plan.kind != Kind::FLOATING || plan.rounding == Rounding::STOCHASTIC || m > 21) return false;
  if (w.min_exponent < -126 || unit > 0 || w.max >= 0x1p128) return false;
  // Where float32's own subnormals begin its patterns are in units of the last place already.
  const bool same_subnormals = w.subnormals && w.min_exponent == -126;
  if (unit < -126 && !same_subnormals) return false;
  f.dropped = 23 - m;
  f.low = (1u << f.dropped) - 1;
  f.half = 1u << (f.dropped - 1);
  f.limit = same_subnormals ? 1 : float_bits(std::ldexp(1.0, w.min_exponent));
  f.unit = same_subnormals ? 1.0f : std::ldexp(1.0f, unit);
  f.per_unit = same_subnormals ? 1.0f : std::ldexp(1.0f, -unit);
  f.max = float_bits(w.max);
  for (int s = 0; s < 2; s++) f.beyond[s] = float_bits(w.beyond[s]);
  f.infinite = float_bits(w.infinite);
  f.zero = static_cast<float>(w.zero);
  return true;
}

// IEEE binary16, rounded to nearest.
bool is_half(const Plan& plan) {
  const Wide& w = plan.wide;
  return plan.kind == Kind::FLOATING && plan.rounding == Rounding::NEAREST &&
         w.mantissa_bits == 10 && w.min_exponent == -14 && w.subnormals && w.max == 65504 &&
         std::isinf(w.infinite) && std::signbit(w.zero);
}

MatmulPlan make_matmul_plan(const Plan& sum, const Plan* product, bool float32, Adder adder,
                            int64_t chunk, int64_t ways, int64_t extra, int64_t seed) {
  MatmulPlan plan{};
  plan.adder = adder;
  plan.has_product = product != nullptr;
  plan.float32 = float32;
  plan.chunk = chunk;
  plan.ways = ways;
  plan.extra = static_cast<int>(extra);
  plan.seed = static_cast<uint64_t>(seed);
  plan.sum = double_format(sum);
  plan.narrow = float_format(sum, plan.narrow_sum) && float32 &&
                (adder == Adder::SEQUENTIAL || adder == Adder::KAHAN);
  plan.half = is_half(sum);
  const int bits = sum.wide.mantissa_bits;
  plan.plain_sums = sum.rounding == Rounding::NEAREST && bits <= 10;
  if (product != nullptr) {
    plan.product = double_format(*product);
    plan.half_product = is_half(*product);
    plan.narrow = float_format(*product, plan.narrow_product) && plan.narrow;
    plan.plain_sums = plan.plain_sums && product->wide.mantissa_bits <= bits;
  }
  return plan;
}

const MatmulKernels& matmul_kernels(Simd asked) {
  const Simd level = usable_simd(asked);
#if defined(LIMPREC_X86)
  if (level == Simd::AVX512) return MATMUL_AVX512;
  if (level == Simd::AVX2) return MATMUL_AVX2;
#endif
  (void)level;
  return MATMUL_PORTABLE;
}

struct Workspace {
  explicit Workspace(size_t bytes)
      : data(static_cast<char*>(::operator new(bytes + 1, std::align_val_t{ALIGNMENT}))) {}
  ~Workspace() { ::operator delete(data, std::align_val_t{ALIGNMENT}); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  char* const data;
};

void matmul_at_precision(Tensor a, Tensor b, Tensor out, int64_t accumulator, int64_t product,
                         int64_t adder, int64_t chunk, int64_t ways, int64_t extra, int64_t seed) {
  const bool float32 = a.scalar_type() == torch::headeronly::ScalarType::Float;
  for (const Tensor* x : {&a, &b, &out})
    STD_TORCH_CHECK(x->dim() == 3 && x->is_contiguous() && x->scalar_type() == a.scalar_type() &&
                        (float32 || x->scalar_type() == torch::headeronly::ScalarType::Double),
                    "limprec: contiguous float32 or float64 tensors of three dimensions are needed");
  const int64_t batch = a.size(0), rows = a.size(1), length = a.size(2), columns = b.size(2);
  STD_TORCH_CHECK(b.size(0) == batch && b.size(1) == length && out.size(0) == batch &&
                      out.size(1) == rows && out.size(2) == columns,
                  "limprec: the shapes do not fit");
  if (batch * rows * columns == 0) return;
  const Carrier carrier = float32 ? Carrier::FLOAT32 : Carrier::FLOAT64;
  const Plan sum = make_plan(accumulator, carrier, {});
  const Plan term = product < 0 ? Plan{} : make_plan(product, carrier, {});
  const MatmulPlan plan =
      make_matmul_plan(sum, product < 0 ? nullptr : &term, float32, static_cast<Adder>(adder),
                       chunk, ways, extra, seed);
  const MatmulKernels& k = matmul_kernels(sum.simd);

  const int64_t size = float32 ? 4 : 8, panel = k.panel(plan);
  const int64_t across = (columns + panel - 1) / panel, down = (rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
  const char* from_a = static_cast<const char*>(a.const_data_ptr());
  const char* from_b = static_cast<const char*>(b.const_data_ptr());
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const auto work = [&](int64_t begin, int64_t end) {
    const Workspace workspace(k.workspace(plan, length));
    for (int64_t item = begin; item < end; item++) {
      const int64_t column = item / down % across * panel, row = item % down * BLOCK_ROWS;
      const int64_t matrix = item / down / across;
      const int64_t first = (matrix * rows + row) * columns + column;
      Block block;
      block.a = from_a + (matrix * rows + row) * length * size;
      block.b = from_b + (matrix * length * columns + column) * size;
      block.out = to + first * size;
      block.rows = std::min(BLOCK_ROWS, rows - row);
      block.columns = std::min(panel, columns - column);
      block.length = length;
      block.stride = columns;
      block.index = static_cast<uint64_t>(first);
      block.workspace = workspace.data;
      k.multiply(plan, block);
    }
  };
  const int64_t items = batch * across * down;
  const int64_t each = std::max<int64_t>(1, std::min(BLOCK_ROWS, rows) * panel * length);
  if (items == 1 || items * each <= SERIAL) return work(int64_t{0}, items);
  torch::stable::parallel_for(0, items, std::max<int64_t>(1, SERIAL / each), work);
}

}  // namespace
}  // namespace limprec

STABLE_TORCH_LIBRARY_FRAGMENT(limprec, m) {
  m.def(
      "matmul_at_precision(Tensor a, Tensor b, Tensor(a!) out, int accumulator, int product,"
      " int adder, int chunk, int ways, int extra, int seed) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(limprec, CPU, m) {
  m.impl("matmul_at_precision", TORCH_BOX(&limprec::matmul_at_precision));
}
