// Optimizer steps: the request as plain data. Only data here, as in plan.h.
#pragma once

#include <stdint.h>

#include "plan.h"

namespace limprec {

enum class Rule : uint8_t { SGD, ADAM, LION, RMSPROP, ADD, AVERAGE };
enum class WriteBack : uint8_t { NEAREST, STOCHASTIC, KAHAN, LAZY, MASTER, SPLIT };

enum Flag : uint32_t {
  MAXIMIZE = 1,
  DECAY = 2,
  DECOUPLED = 4,
  MOMENTUM = 8,
  NESTEROV = 16,
  AMSGRAD = 32,
  CENTERED = 64,
};

// The ulp of a parameter's format: the exponent of the distance between neighbours.
struct Ulp {
  int mantissa_bits;  // 0 for fixed point
  int min_exponent;   // for fixed point the one exponent that there is
  bool fixed;
  uint32_t flushed;  // magnitudes below this have the unit 2^min_exponent; 0 for none
};

// How one tensor is kept. The plan rounds float32 numbers: values, the elements of blocks in units
// of their scale, or a compensation in units.
struct Storage {
  Plan plan;
  Memory memory;
  bool own;         // its format is that of its memory
  bool exact;       // every float32 is kept as it is
  int ulp_bits;     // 0, or the memory counts units of ulp(p) / 2^ulp_bits
  bool in_blocks;   // of 32, each with a scale
  bool above_zero;  // what is positive stays so
  int max_exponent;  // of an element of a block
  float smallest;   // positive element
};

constexpr int MAX_STATES = 3, MAX_SCALARS = 8;
constexpr int BLOCK = 32;          // elements under one scale
constexpr int FINEST_UNIT = -126;  // exponent of a unit of a compensation

struct StepPlan {
  Rule rule;
  uint32_t flags;
  WriteBack strategy;
  bool strict, has_carry;
  int states;
  Memory grad;
  Storage parameter, carry, state[MAX_STATES];
  Plan strict_plan;  // the compensation's format, to nearest
  float min, max;    // of the parameter's format
  Ulp ulp;
  float scalars[MAX_SCALARS];
};

// The memory of one parameter.
struct StepSlot {
  void* p;
  const void* grad;
  void* carry;
  void* state[MAX_STATES];
  uint8_t* scale[MAX_STATES];
  int64_t n;
  uint64_t offset;  // of its first element among those of the whole parameter
  uint32_t stream;
};

// Places of a parameter's tensors among its streams.
constexpr uint32_t PARAMETER_PLACE = 0, CARRY_PLACE = 1, STATE_PLACE = 2;

// One instruction set's copy: steps the elements begin to end of a parameter; begin is a multiple
// of BLOCK.
struct StepKernels {
  void (*step)(const StepPlan&, const StepSlot&, int64_t begin, int64_t end);
};

extern const StepKernels STEP_PORTABLE;
#if defined(LIMPREC_X86)
extern const StepKernels STEP_AVX2, STEP_AVX512;
#endif

}  // namespace limprec
