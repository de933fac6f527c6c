// The choice among the loops over formats with shared scales. Compiled once per instruction set, as
// kernels.cpp is.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarms in GCC's own AVX-512 header
#endif

#include "scaled_narrow.h"

namespace limprec {
namespace LIMPREC_LEVEL {

struct NarrowLoops {
  decltype(ScaledKernels::run) run;
  decltype(ScaledKernels::blocks) blocks;
  decltype(ScaledKernels::columns) columns;
};

template <Random TAKEN, class Rule>
static NarrowLoops narrow_loops() {
  return {run_of<TAKEN, Rule>, blocks_of<TAKEN, Rule>, columns_of<TAKEN, Rule>};
}

template <Rounding R, Random TAKEN>
static NarrowLoops narrow_loops(const Plan& plan) {
  const bool real = plan.scaling.zero == Zero::REAL;
  if (plan.kind == Kind::NVFP4) return narrow_loops<TAKEN, TwoLevel<R>>();
  if (plan.kind == Kind::AFFINE && real) return narrow_loops<TAKEN, Affine<R, true>>();
  if (plan.kind == Kind::AFFINE) return narrow_loops<TAKEN, Affine<R, false>>();
  if (plan.floating) return narrow_loops<TAKEN, Shifted<FloatingElement<R>, R>>();
  return narrow_loops<TAKEN, Shifted<Code<R>, R>>();
}

static NarrowLoops narrow_loops(const Plan& plan) {
  switch (plan.rounding) {
    case Rounding::NEAREST:
      return narrow_loops<Rounding::NEAREST, Random::NONE>(plan);
    case Rounding::NEAREST_AWAY:
      return narrow_loops<Rounding::NEAREST_AWAY, Random::NONE>(plan);
    case Rounding::TOWARD_ZERO:
      return narrow_loops<Rounding::TOWARD_ZERO, Random::NONE>(plan);
    case Rounding::DOWN:
      return narrow_loops<Rounding::DOWN, Random::NONE>(plan);
    case Rounding::UP:
      return narrow_loops<Rounding::UP, Random::NONE>(plan);
    case Rounding::STOCHASTIC:
      break;
  }
  if (plan.halves) return narrow_loops<Rounding::STOCHASTIC, Random::HALVES>(plan);
  return narrow_loops<Rounding::STOCHASTIC, Random::WORDS>(plan);
}

static void extremes(const Plan& plan, const void* x, int64_t n, Extremes& found) {
  if (!plan.narrow) return wide_extremes(plan, x, n, found);
  const bool range = plan.kind == Kind::AFFINE && plan.scaling.zero != Zero::NONE;
  range ? extremes_of<true>(plan, x, n, found) : extremes_of<false>(plan, x, n, found);
}

static void run(const Plan& plan, const Extremes& found, const void* x, void* y, int64_t n,
                uint64_t index) {
  if (!plan.narrow) return wide_run(plan, found, x, y, n, index);
  narrow_loops(plan).run(plan, found, x, y, n, index);
}

static void blocks(const Plan& plan, const Rows& rows, const void* x, void* y, int64_t first,
                   int64_t last) {
  if (!plan.narrow) return wide_blocks(plan, rows, x, y, first, last);
  const NarrowLoops loops = narrow_loops(plan);
  if (rows.block <= STRETCH || rows.length <= STRETCH)
    return loops.blocks(plan, rows, x, y, first, last);
  const int64_t per_row = (rows.length + rows.block - 1) / rows.block;
  for (; first < last; first++) {
    const int64_t begin = first % per_row * rows.block, left = rows.length - begin;
    const int64_t size = left < rows.block ? left : rows.block;
    const int64_t place = first / per_row * rows.length + begin;
    Extremes found = NOTHING;
    extremes(plan, at(plan, x, place), size, found);
    loops.run(plan, found, at(plan, x, place), at(plan, y, place), size,
              rows.index + static_cast<uint64_t>(place));
  }
}

static void columns(const Plan& plan, const void* x, void* y, int64_t count, int64_t stride,
                    int64_t n, uint64_t index) {
  if (!plan.narrow) return wide_columns(plan, x, y, count, stride, n, index);
  narrow_loops(plan).columns(plan, x, y, count, stride, n, index);
}

}  // namespace LIMPREC_LEVEL

#define LIMPREC_JOIN(a, b) a##b
#define LIMPREC_NAME(table) LIMPREC_JOIN(SCALED_, table)
const ScaledKernels LIMPREC_NAME(LIMPREC_TABLE) = {LIMPREC_LEVEL::extremes, LIMPREC_LEVEL::run,
                                                   LIMPREC_LEVEL::blocks, LIMPREC_LEVEL::columns};

}  // namespace limprec
