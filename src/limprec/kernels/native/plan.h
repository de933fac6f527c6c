// What is to be done, as plain data: the caller's request unpacked, and the facts derived from it
// once so that the inner loops only load constants.
//
// Only data here: this header is compiled into every instruction set's copy of the kernels, and an
// inline function could leave an AVX-512 version of itself for everybody to call.
#pragma once

#include <stdint.h>

namespace limprec {

enum class Kind : uint8_t { FLOATING, FIXED, DYNAMIC, MICROSCALING, NVFP4, AFFINE };
enum class Rounding : uint8_t { NEAREST, NEAREST_AWAY, TOWARD_ZERO, DOWN, UP, STOCHASTIC };
enum class Simd : uint8_t { AUTO, PORTABLE, AVX2, AVX512 };
enum class Carrier : uint8_t { FLOAT32, BFLOAT16, FLOAT16, FLOAT64 };
enum class Memory : uint8_t { FLOAT32, BFLOAT16, FLOAT16, E4M3, E5M2, INT8, INT16 };
enum class Span : uint8_t { TENSOR, CHANNEL, BLOCK };  // what a scale is for
enum class Zero : uint8_t { INTEGER, NONE, REAL };     // the zero point of affine integers

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

// Facts for float32 arithmetic on fixed point, and on codes before their scale.
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

// Which elements share a scale.
struct Groups {
  Span span;
  int axis;  // may count back from the last
  int64_t block;
};

// How scales follow from elements.
struct Scaling {
  // Powers of two: 2^(floor(log2 amax) - below), held between two exponents.
  int below, min_exponent, max_exponent;
  // Affine integers; also the largest element of NVFP4.
  Zero zero;
  float code_min, code_max;
  // NVFP4: the format of block scales, its largest value times that of an element, and the scale
  // of the tensor.
  NarrowFloating block;
  float per_tensor, tensor;
};

struct Plan {
  Kind kind;
  Rounding rounding;
  Simd simd;
  Carrier carrier;
  uint32_t mask;  // the bits of a random word that are random
  bool halves;    // whether an element takes half a word
  bool floating;  // whether elements are, or codes
  bool narrow;    // whether float32 arithmetic rounds a float32 exactly
  Key key;
  Groups groups;
  Scaling scaling;
  NarrowFloating narrow_floating;
  NarrowFixed narrow_fixed;
  Wide wide;
};

// Unpack a request; the fields of `packed` are those of spec.py.
Plan make_plan(int64_t packed, Carrier carrier, const Key& key);

// Set the scale of the whole tensor from its largest magnitude, for NVFP4.
void set_tensor_scale(Plan& plan, float largest);

// What the elements that share a scale say about it.
struct Extremes {
  uint64_t magnitude;  // bit pattern of the largest: a float32 in a narrow plan, else a float64
  float low, high;     // only for affine integers with a zero point
};

// Blocks in contiguous memory: rows of `length` elements, cut every `block`, the last one shorter.
struct Rows {
  int64_t length, block;
  uint64_t index;  // the global index of the first element
};

// One instruction set's copy of the kernels. `index` is the global index of the first element; x
// and y are equal or disjoint.
struct Kernels {
  // Round n elements to a format without scales.
  void (*round)(const Plan& plan, const void* x, void* y, int64_t n, uint64_t index);
};
struct ScaledKernels {
  // What n elements, at least one, add to the extremes of their group.
  void (*extremes)(const Plan& plan, const void* x, int64_t n, Extremes& found);
  // Round n elements of a group.
  void (*run)(const Plan& plan, const Extremes& found, const void* x, void* y, int64_t n,
              uint64_t index);
  // Round the blocks first to last; x and y are where the first row begins.
  void (*blocks)(const Plan& plan, const Rows& rows, const void* x, void* y, int64_t first,
                 int64_t last);
  // Round `count` rows, `stride` elements apart, of n columns each of which is a group.
  void (*columns)(const Plan& plan, const void* x, void* y, int64_t count, int64_t stride,
                  int64_t n, uint64_t index);
};

// No group of nothing: what `extremes` starts from.
constexpr Extremes NOTHING{0, __builtin_inff(), -__builtin_inff()};
constexpr int64_t COLUMNS_AT_ONCE = 128;  // at most, for `columns`

extern const Kernels PORTABLE;
extern const ScaledKernels SCALED_PORTABLE;
#if defined(LIMPREC_X86)
extern const Kernels AVX2, AVX512;
extern const ScaledKernels SCALED_AVX2, SCALED_AVX512;
#endif

}  // namespace limprec
