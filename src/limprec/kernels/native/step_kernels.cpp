// The choice among the loops. Compiled once per instruction set, as kernels.cpp is.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarms in GCC's own AVX-512 header
#endif

#include "step_bfloat16.h"
#include "step_chunk.h"

namespace limprec {
namespace LIMPREC_LEVEL {

static void step(const StepPlan& plan, const StepSlot& slot, int64_t begin, int64_t end) {
  constexpr uint64_t PERIOD = Philox<Random::HALVES>::PERIOD;
  const uint64_t first = slot.offset + static_cast<uint64_t>(begin);
  const int64_t whole = begin + (end - begin) / PAIR_GROUP * PAIR_GROUP;
  const StepLoop loop = bfloat16_loop(plan);
  const uint64_t last = slot.offset + static_cast<uint64_t>(end);
  if (loop != nullptr && first % PAIR_GROUP == 0 && first / PERIOD == last / PERIOD) {
    loop(plan, slot, begin, whole);
    begin = whole;
  }
  step_by_chunks(plan, slot, begin, end);
}

}  // namespace LIMPREC_LEVEL

#define LIMPREC_JOIN(a, b) a##b
#define LIMPREC_NAME(table) LIMPREC_JOIN(STEP_, table)
const StepKernels LIMPREC_NAME(LIMPREC_TABLE) = {LIMPREC_LEVEL::step};

}  // namespace limprec
