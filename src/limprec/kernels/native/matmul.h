// Products whose every sum is rounded: the request as plain data. Only data here, as in plan.h.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "plan.h"

namespace limprec {

enum class Adder : uint8_t { SEQUENTIAL, KAHAN, TREE, ALIGNED };

// Facts for rounding float32 numbers to floating point; bit patterns are of magnitudes.
struct FloatFormat {
  int dropped;           // mantissa bits of float32 that the format lacks, at least 2
  uint32_t low, half;    // those bits, and half a unit in the last place in them
  uint32_t limit;        // magnitudes below this are multiples of one constant, `unit`
  float unit, per_unit;
  uint32_t max;          // the largest finite value
  uint32_t beyond[2];    // what larger magnitudes become: positive, negative
  uint32_t infinite;     // what an infinity becomes
  float zero;            // -0 keeps the sign of zero when added, +0 removes it
};

// Facts for rounding float64 numbers.
struct DoubleFormat {
  bool fixed;
  Rounding rounding;
  // floating point, as above
  int dropped, mantissa_bits, min_exponent;
  uint64_t low, odd, half, limit, max, beyond[2], infinite;
  double zero;
  // fixed point; modulus 0 saturates
  double code_min, code_max, modulus, per_modulus;
  double unit, per_unit;  // of the codes; of floating point below its normal numbers
};

struct MatmulPlan {
  Adder adder;
  bool has_product;
  bool float32;      // whether the operands and the result are float32, else float64
  bool narrow;       // whether float32 arithmetic will do, given sums that are rounded to odd
  bool plain_sums;   // whether sums of two rounded numbers need not even be rounded to odd
  bool half, half_product;  // which of the two is IEEE binary16, rounded to nearest
  int64_t chunk;     // terms in a partial sum, 0 for all
  int64_t ways;      // of an aligned adder
  int extra;         // its bits below the last place
  uint64_t seed;
  DoubleFormat sum, product;
  FloatFormat narrow_sum, narrow_product;
};

// Some rows and at most `panel` columns of one product.
struct Block {
  const void* a;      // row-major, `length` elements a row
  const void* b;      // row-major, `stride` elements a row
  void* out;          // row-major, `stride` elements a row
  int64_t rows, columns, length, stride;
  uint64_t index;     // of out's first element in the whole result
  char* workspace;
};

// One instruction set's copy of the kernels.
struct MatmulKernels {
  int (*panel)(const MatmulPlan&);
  size_t (*workspace)(const MatmulPlan&, int64_t length);
  void (*multiply)(const MatmulPlan&, const Block&);
};

extern const MatmulKernels MATMUL_PORTABLE;
#if defined(LIMPREC_X86)
extern const MatmulKernels MATMUL_AVX2, MATMUL_AVX512;
#endif

}  // namespace limprec
