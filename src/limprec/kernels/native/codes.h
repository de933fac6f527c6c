// Narrow storage: values as codes, ReLU with a bit an element. Only data here, as in plan.h.
#pragma once

#include <stdint.h>

#include "plan.h"

namespace limprec {

// How values become codes: as they are, or counted in a power of two.
struct Counting {
  Memory memory;
  float factors[2];  // values times both are codes: one alone might be beyond float32
};

// Rounds n elements straight to codes; whether there was a NaN.
using CodeLoop = bool (*)(const Plan& plan, const Counting& counting, const void* x, void* codes,
                          int64_t n, uint64_t index);

// One instruction set's copy.
struct CodeKernels {
  // The loop for a plan that is `narrow`, to nearest or stochastic: for what is used most. Null for
  // all the rest, which is rounded first. A scale has to be one that float32 arithmetic serves.
  CodeLoop (*straight)(const Plan& plan, Memory memory);
  // Turn n rounded values into codes; whether there was a NaN, which no integer stands for.
  bool (*narrow)(const Counting& counting, Carrier carrier, const void* x, void* codes, int64_t n);
  // The values of n codes, each of which stands for so much.
  void (*widen)(Memory memory, float scale, Carrier carrier, const void* codes, void* y, int64_t n);
  // ReLU of n elements, and the bits of their derivatives; the ceiling is NaN where there is none.
  void (*relu)(Carrier carrier, float ceiling, const void* x, void* y, uint8_t* mask, int64_t n);
  // n elements where the mask has 1, 0 elsewhere; y may be x.
  void (*mask)(Carrier carrier, const void* x, const uint8_t* mask, void* y, int64_t n);
};

extern const CodeKernels CODES_PORTABLE;
#if defined(LIMPREC_X86)
extern const CodeKernels CODES_AVX2, CODES_AVX512;
#endif

}  // namespace limprec
