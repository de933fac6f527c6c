// The choice among the loops. Compiled once per instruction set, as kernels.cpp is.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarms in GCC's own AVX-512 header
#endif

#include "step_bfloat16.h"
#include "step_chunk.h"
#include "step_float32.h"

namespace limprec {
namespace LIMPREC_LEVEL {

// As many elements as one of the loops in one pass takes; the number that are done.
static int64_t in_one_pass(const StepPlan& plan, const StepSlot& slot, int64_t begin, int64_t end) {
  constexpr uint64_t PERIOD = Philox<Random::HALVES>::PERIOD;
  if (const StepLoop loop = float32_loop(plan)) {
    const int64_t whole = (end - begin) / BLOCK * BLOCK;
    loop(plan, slot, begin, begin + whole);
    return whole;
  }
  const uint64_t first = slot.offset + static_cast<uint64_t>(begin);
  const uint64_t last = slot.offset + static_cast<uint64_t>(end);
  if (first % PAIR_GROUP != 0 || first / PERIOD != last / PERIOD) return 0;
  if (const StepLoop loop = bfloat16_loop(plan)) {
    const int64_t whole = (end - begin) / PAIR_GROUP * PAIR_GROUP;
    loop(plan, slot, begin, begin + whole);
    return whole;
  }
  return 0;
}

static void step(const StepPlan& plan, const StepSlot& slot, int64_t begin, int64_t end) {
  step_by_chunks(plan, slot, begin + in_one_pass(plan, slot, begin, end), end);
}

}  // namespace LIMPREC_LEVEL

#define LIMPREC_JOIN(a, b) a##b
#define LIMPREC_NAME(table) LIMPREC_JOIN(STEP_, table)
const StepKernels LIMPREC_NAME(LIMPREC_TABLE) = {LIMPREC_LEVEL::step};

}  // namespace limprec
