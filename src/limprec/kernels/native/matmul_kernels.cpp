// The choice among the loops. Compiled once per instruction set, as kernels.cpp is.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarms in GCC's own AVX-512 header
#endif

#include "matmul.h"
#include "matmul_narrow.h"
#include "matmul_rows.h"

namespace limprec {
namespace LIMPREC_LEVEL {

static bool is_narrow(const MatmulPlan& plan) {
#if defined(__AVX512F__)
  return plan.narrow;
#else
  (void)plan;
  return false;
#endif
}

static int panel(const MatmulPlan& plan) { return is_narrow(plan) ? TILE_COLUMNS : COLUMNS; }

static size_t workspace(const MatmulPlan& plan, int64_t length) {
  const size_t terms = static_cast<size_t>(length);
  if (is_narrow(plan)) return terms * TILE_COLUMNS * sizeof(float);
  return (terms + LEVELS + static_cast<size_t>(plan.ways)) * ROW_BYTES;
}

template <template <Rounding> class Rule>
static void in_mode(const MatmulPlan& plan, const Block& block) {
  switch (plan.sum.rounding) {
    case Rounding::NEAREST:
      return multiply_rows<Rule<Rounding::NEAREST>>(plan, block);
    case Rounding::NEAREST_AWAY:
      return multiply_rows<Rule<Rounding::NEAREST_AWAY>>(plan, block);
    case Rounding::TOWARD_ZERO:
      return multiply_rows<Rule<Rounding::TOWARD_ZERO>>(plan, block);
    case Rounding::DOWN:
      return multiply_rows<Rule<Rounding::DOWN>>(plan, block);
    case Rounding::UP:
      return multiply_rows<Rule<Rounding::UP>>(plan, block);
    case Rounding::STOCHASTIC:
      return multiply_rows<Rule<Rounding::STOCHASTIC>>(plan, block);
  }
}

static void multiply(const MatmulPlan& plan, const Block& block) {
#if defined(__AVX512F__)
  if (plan.narrow) return multiply_narrow(plan, block);
#endif
  if (plan.sum.fixed) return in_mode<FixedSum>(plan, block);
  in_mode<FloatingSum>(plan, block);
}

}  // namespace LIMPREC_LEVEL

#define LIMPREC_JOIN(a, b) a##b
#define LIMPREC_NAME(table) LIMPREC_JOIN(MATMUL_, table)
const MatmulKernels LIMPREC_NAME(LIMPREC_TABLE) = {
    LIMPREC_LEVEL::panel, LIMPREC_LEVEL::workspace, LIMPREC_LEVEL::multiply};

}  // namespace limprec
