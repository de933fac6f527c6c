// What is to be done, as plain data: the caller's request unpacked, and the facts derived from it
// once so that the inner loops only load constants.
//
// Only data here: this header is compiled into every instruction set's copy of the kernels, and an
// inline function could leave an AVX-512 version of itself for everybody to call.
#pragma once

#include <stdint.h>

namespace limprec {

enum class Kind : uint8_t { FLOATING, FIXED, DYNAMIC };
enum class Rounding : uint8_t { NEAREST, NEAREST_AWAY, TOWARD_ZERO, DOWN, UP, STOCHASTIC };
enum class Simd : uint8_t { AUTO, PORTABLE, AVX2, AVX512 };
enum class Carrier : uint8_t { FLOAT32, BFLOAT16, FLOAT16, FLOAT64 };

struct Key {
  uint64_t seed;
  uint32_t stream, step;
};

// A power of two that values are counted in, and what float32 arithmetic needs for that.
struct Unit {
  float one, inverse;  // itself and 1 over it
  float magic;         // 2^23 of it: a sum with this is a whole number of units
  float words;         // 2^32 over it: what the random words are counted in
};

// Facts for float32 arithmetic on floating point; bit patterns are of magnitudes.
struct NarrowFloating {
  int dropped;           // mantissa bits of float32 that the format lacks
  uint32_t low;          // those bits
  uint32_t odd;          // 1, or 0 where nothing is dropped
  uint32_t half;         // half a unit in the last place, in those bits
  uint32_t limit;        // magnitudes below this are multiples of one unit
  Unit unit;
  uint32_t max;          // the largest finite value
  uint32_t beyond[2];    // what larger magnitudes become: positive, negative
  uint32_t infinite;     // what an infinity becomes
  float zero;            // -0 keeps the sign of zero when added, +0 removes it
};

// Facts for float32 arithmetic on fixed and dynamic fixed point.
struct NarrowFixed {
  Unit unit;
  float min, max;
};

// Facts for float64 arithmetic, which takes every format and carrier.
struct Wide {
  // floating point
  int mantissa_bits, min_exponent;
  bool subnormals;
  double max, beyond[2], infinite, zero;
  // fixed point
  int unit_exponent;
  double code_min, code_max, modulus;  // modulus 0 saturates
};

struct Plan {
  Kind kind;
  Rounding rounding;
  Simd simd;
  Carrier carrier;
  uint32_t mask;  // the bits of a random word that are random
  bool halves;    // whether an element takes half a word
  int bits;       // of a dynamic code
  bool narrow;    // whether float32 arithmetic rounds a float32 exactly
  bool nan;       // a dynamic format without a scale: everything becomes NaN
  Key key;
  NarrowFloating narrow_floating;
  NarrowFixed narrow_fixed;
  Wide wide;
};

// Unpack a request; the fields of `packed` are those of spec.py.
Plan make_plan(int64_t packed, Carrier carrier, const Key& key);

// Set the scale of a dynamic plan from the tensor's largest magnitude.
void set_scale(Plan& plan, double largest);

// One instruction set's copy of the kernels.
struct Kernels {
  // Round n elements; index is the global index of the first. x and y are equal or disjoint.
  void (*round)(const Plan& plan, const void* x, void* y, int64_t n, uint64_t index);
  // The bit pattern of the largest magnitude (float64 for that carrier, else float32); a NaN is
  // larger than an infinity.
  uint64_t (*largest)(Carrier carrier, const void* x, int64_t n);
};

extern const Kernels PORTABLE;
#if defined(LIMPREC_X86)
extern const Kernels AVX2, AVX512;
#endif

}  // namespace limprec
