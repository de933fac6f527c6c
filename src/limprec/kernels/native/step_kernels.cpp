// The steps of one instruction set. Compiled once per set, as kernels.cpp is.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarms in GCC's own AVX-512 header
#endif

#include "step_chunk.h"

namespace limprec {

#define LIMPREC_JOIN(a, b) a##b
#define LIMPREC_NAME(table) LIMPREC_JOIN(STEP_, table)
const StepKernels LIMPREC_NAME(LIMPREC_TABLE) = {LIMPREC_LEVEL::step_by_chunks};

}  // namespace limprec
