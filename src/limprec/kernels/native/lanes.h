// Vectors of one width per translation unit, and the few operations that the compilers' vector
// extensions do not spell. Everything else in this folder is plain arithmetic on these types.
//
// kernels.cpp is compiled once per instruction set; LIMPREC_LEVEL names the copy, and all code that
// a copy contains lives in that namespace, so that the linker cannot merge one level with another.
#pragma once

#include <stdint.h>

#include "plan.h"

#if defined(__AVX512F__) || defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

// Constants stay in registers only where a whole loop is one function.
#define ALWAYS __attribute__((always_inline))
#define INLINE inline ALWAYS

namespace limprec::LIMPREC_LEVEL {

#if defined(__AVX512F__)
constexpr int BYTES = 64;
#elif defined(__AVX2__)
constexpr int BYTES = 32;
#else
constexpr int BYTES = 16;  // SSE2 and NEON; elsewhere the compiler makes scalars of it
#endif

constexpr int LANES = BYTES / 4;

typedef float f32 __attribute__((vector_size(BYTES)));
typedef int32_t i32 __attribute__((vector_size(BYTES)));
typedef uint32_t u32 __attribute__((vector_size(BYTES)));
typedef uint64_t u64 __attribute__((vector_size(BYTES)));
typedef uint16_t u16 __attribute__((vector_size(BYTES / 2)));

// The same where they are kept in memory, which the stack may not align (see `unaligned`).
typedef u32 loose32 __attribute__((aligned(4)));
typedef u64 loose64 __attribute__((aligned(8)));

static INLINE u32 bits(f32 x) { return (u32)x; }
static INLINE f32 number(u32 b) { return (f32)b; }
static INLINE f32 splat(float x) { return x - f32{}; }  // keeps -0
static INLINE u32 splat(uint32_t x) { return u32{} + x; }
static INLINE u64 splat(uint64_t x) { return u64{} + x; }

// A pointer whose alignment the compiler does not know. GCC before 12.4 and 13.3 (its bug 109780) can
// leave the stack unaligned, yet use aligned instructions on an array there.
template <class T>
static INLINE T* unaligned(T* p) {
  __asm__("" : "+r"(p));
  return p;
}

// widening_product: full product of the low halves of each 64-bit lane; high halves are ignored.
// nearest: to the nearest integer, ties to even, for 0 <= x < 2^31; NaN stays.
// floor: integer part, for 0 <= x < 2^31; anything outside gives anything.
// floor_to: floor to a whole number of units, for 0 <= x <= 2^23 units.
// whole: integer part, for 0 <= x < 2^32.
// keep_nan: x where it is NaN, else y.
// even_pairs, odd_pairs: of the 64-bit lanes a and b, a0 b0 a2 b2 ... and a1 b1 a3 b3 ...
// exchanged: the 64-bit lanes, the halves of each in the other's place.
// xor_low: a ^ b ^ c in the low halves of 64-bit lanes, a in the high ones.
// greatest, least: of the lanes, which are not NaN.
// lower_halves, upper_halves: the 16-bit lanes in the lower or upper half of a vector, each as the
// upper half of a 32-bit lane.
#if defined(__AVX512F__)
static INLINE u64 widening_product(u64 a, u64 b) {
  return (u64)_mm512_mul_epu32((__m512i)a, (__m512i)b);
}
static INLINE f32 nearest(f32 x) { return (f32)_mm512_roundscale_ps((__m512)x, 8); }
static INLINE f32 floor(f32 x) { return (f32)_mm512_roundscale_ps((__m512)x, 9); }
static INLINE f32 floor_to(f32 x, const Unit& unit) {
  constexpr int DOWN = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
  const __m512 magic = (__m512)splat(unit.magic);
  return (f32)_mm512_add_round_ps((__m512)x, magic, DOWN) - unit.magic;
}
static INLINE u32 whole(f32 x) { return (u32)_mm512_cvttps_epu32((__m512)x); }
static INLINE f32 keep_nan(f32 x, f32 y) {
  const __m512i first_two_classes_are_nan = _mm512_set1_epi32(0x11);
  return (f32)_mm512_fixupimm_ps((__m512)y, (__m512)x, first_two_classes_are_nan, 0);
}
static INLINE u64 exchanged(u64 x) { return (u64)_mm512_ror_epi64((__m512i)x, 32); }
static INLINE u64 xor_low(u64 a, u64 b, u64 c) {
  return (u64)_mm512_mask_ternarylogic_epi32((__m512i)a, 0x5555, (__m512i)b, (__m512i)c, 0x96);
}
static INLINE u64 even_pairs(u64 a, u64 b) {
  return (u64)_mm512_unpacklo_epi64((__m512i)a, (__m512i)b);
}
static INLINE u64 odd_pairs(u64 a, u64 b) {
  return (u64)_mm512_unpackhi_epi64((__m512i)a, (__m512i)b);
}
static INLINE int32_t greatest(i32 x) { return _mm512_reduce_max_epi32((__m512i)x); }
static INLINE float greatest(f32 x) { return _mm512_reduce_max_ps((__m512)x); }
static INLINE float least(f32 x) { return _mm512_reduce_min_ps((__m512)x); }
static INLINE u32 to_upper_halves(u32 x, int first) {
  u32 place{};  // in the upper halves: which 16-bit lane to take
  for (int lane = 0; lane < LANES; lane++) place[lane] = static_cast<uint32_t>(first + lane) << 16;
  return (u32)_mm512_maskz_permutexvar_epi16(0xaaaaaaaau, (__m512i)place, (__m512i)x);
}
static INLINE u32 lower_halves(u32 x) { return to_upper_halves(x, 0); }
static INLINE u32 upper_halves(u32 x) { return to_upper_halves(x, LANES); }
#else

#if defined(__AVX2__)
static INLINE u64 widening_product(u64 a, u64 b) {
  return (u64)_mm256_mul_epu32((__m256i)a, (__m256i)b);
}
static INLINE f32 nearest(f32 x) { return (f32)_mm256_round_ps((__m256)x, 8); }
static INLINE f32 floor(f32 x) { return (f32)_mm256_round_ps((__m256)x, 9); }
static INLINE u64 even_pairs(u64 a, u64 b) {
  return (u64)_mm256_unpacklo_epi64((__m256i)a, (__m256i)b);
}
static INLINE u64 odd_pairs(u64 a, u64 b) {
  return (u64)_mm256_unpackhi_epi64((__m256i)a, (__m256i)b);
}
static INLINE int32_t greatest(i32 x) {
  const __m256i v = (__m256i)x;
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1)));
}
static INLINE u32 lower_halves(u32 x) {
  return (u32)_mm256_cvtepu16_epi32(_mm256_castsi256_si128((__m256i)x)) << 16;
}
static INLINE u32 upper_halves(u32 x) {
  return (u32)_mm256_cvtepu16_epi32(_mm256_extracti128_si256((__m256i)x, 1)) << 16;
}
#else
static INLINE f32 nearest(f32 x) {
  const f32 rounded = (x + 0x1p23f) - 0x1p23f;
  return x < 0x1p23f ? rounded : x;
}
static INLINE f32 floor(f32 x) {
  return __builtin_convertvector(__builtin_convertvector(x, i32), f32);
}
static INLINE u64 even_pairs(u64 a, u64 b) { return u64{a[0], b[0]}; }
static INLINE u64 odd_pairs(u64 a, u64 b) { return u64{a[1], b[1]}; }
static INLINE u32 lower_halves(u32 x) { return u32{x[0] << 16, x[0], x[1] << 16, x[1]} & 0xffff0000u; }
static INLINE u32 upper_halves(u32 x) { return u32{x[2] << 16, x[2], x[3] << 16, x[3]} & 0xffff0000u; }

#if defined(__SSE2__)
static INLINE u64 widening_product(u64 a, u64 b) {
  return (u64)_mm_mul_epu32((__m128i)a, (__m128i)b);
}
#elif defined(__ARM_NEON)
static INLINE u64 widening_product(u64 a, u64 b) {
  return (u64)vmull_u32(vmovn_u64((uint64x2_t)a), vmovn_u64((uint64x2_t)b));
}
#else
static INLINE u64 widening_product(u64 a, u64 b) {
  return (a & 0xffffffffu) * (b & 0xffffffffu);
}
#endif
#endif

#if !defined(__AVX512F__)
static INLINE u64 exchanged(u64 x) { return (x >> 32) | (x << 32); }
static INLINE u64 xor_low(u64 a, u64 b, u64 c) { return a ^ ((b ^ c) & splat(uint64_t{0xffffffffu})); }
#endif
#if !defined(__AVX2__)
static INLINE int32_t greatest(i32 x) {
  int32_t most = x[0];
  for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
  return most;
}
#endif
static INLINE float greatest(f32 x) {
  float most = x[0];
  for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
  return most;
}
static INLINE float least(f32 x) { return -greatest(-x); }
static INLINE f32 floor_to(f32 x, const Unit& unit) { return floor(x * unit.inverse) * unit.one; }
static INLINE u32 whole(f32 x) {  // for want of an unsigned conversion: modulo 2^32
  const f32 wrapped = x - (x >= 0x1p31f ? splat(0x1p32f) : f32{});
  return (u32)__builtin_convertvector(wrapped, i32);
}
static INLINE f32 keep_nan(f32 x, f32 y) { return (i32)(bits(x) & 0x7fffffffu) > 0x7f800000 ? x : y; }
#endif

}  // namespace limprec::LIMPREC_LEVEL
