// Loading and storing carrier values: as float32 vectors (get, put), as magnitudes whose order is
// that of integers (magnitude), and as groups of scalars for float64 arithmetic (unpack, pack).
// Rounded values fit their carrier, so a store only drops zeros.
#pragma once

#include "lanes.h"

namespace limprec::LIMPREC_LEVEL {

template <class T>
static INLINE T load(const void* p) {
  T v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
static INLINE void store(void* p, T v) {
  __builtin_memcpy(p, &v, sizeof v);
}

// GCC makes several instructions of a __builtin_convertvector where there is one.
#if defined(__AVX512F__)
static INLINE u32 widen(u16 h) { return (u32)_mm512_cvtepu16_epi32((__m256i)h); }
static INLINE u16 narrow(u32 b) { return (u16)_mm512_cvtepi32_epi16((__m512i)b); }
#elif defined(__AVX2__)
static INLINE u32 widen(u16 h) { return (u32)_mm256_cvtepu16_epi32((__m128i)h); }
static INLINE u16 narrow(u32 b) {
  const __m256i lows = _mm256_set1_epi64x(0x0d0c090805040100);
  const __m256i each = _mm256_shuffle_epi8((__m256i)b, lows);
  return (u16)_mm_unpacklo_epi64(_mm256_castsi256_si128(each), _mm256_extracti128_si256(each, 1));
}
#else
static INLINE u32 widen(u16 h) { return __builtin_convertvector(h, u32); }
static INLINE u16 narrow(u32 b) { return __builtin_convertvector(b, u16); }
#endif

#if defined(__AVX512F__)
static INLINE f32 from_half(u16 h) { return (f32)_mm512_cvtph_ps((__m256i)h); }
static INLINE u16 to_half(f32 x) { return (u16)_mm512_cvtps_ph((__m512)x, 8); }
#elif defined(__F16C__) && defined(__AVX2__)
static INLINE f32 from_half(u16 h) { return (f32)_mm256_cvtph_ps((__m128i)h); }
static INLINE u16 to_half(f32 x) { return (u16)_mm256_cvtps_ph((__m256)x, 8); }
#else
// By scaling, which handles subnormals too; to_half takes only what a half can hold.
static INLINE f32 from_half(u16 h) {
  const u32 b = widen(h), magnitude = (b & 0x7fffu) << 13;
  const u32 finite = bits(number(magnitude) * 0x1p112f), special = magnitude | 0x7f800000u;
  return number(((i32)magnitude >= 0x7c00 << 13 ? special : finite) | (b & 0x8000u) << 16);
}
static INLINE u16 to_half(f32 x) {
  const u32 b = bits(x), magnitude = b & 0x7fffffffu;
  const u32 finite = bits(number(magnitude) * 0x1p-112f) >> 13;
  const u32 special = (i32)magnitude > 0x7f800000 ? splat(0x7e00u) : splat(0x7c00u);
  return narrow(((i32)magnitude >= 0x7f800000 ? special : finite) | (b >> 16 & 0x8000u));
}
#endif

// What the carriers of at most 32 bits share.
template <class C>
struct Narrow {
  static constexpr bool HAS_NARROW = true, INTEGER = false;
  using Number = float;
  using Pattern = i32;

  template <int N, class T>
  static INLINE void unpack(const T* p, float* numbers) {
    for (int i = 0; i < N; i += LANES) store(numbers + i, C::get(p + i));
  }
  template <int N, class T>
  static INLINE void pack(T* p, const float* numbers) {
    for (int i = 0; i < N; i += LANES) C::put(p + i, load<f32>(numbers + i));
  }
  template <class T>
  static INLINE i32 magnitude(const T* p) {
    return (i32)(bits(C::get(p)) & 0x7fffffffu);
  }
};

struct Float32 : Narrow<Float32> {
  using Element = float;
  static INLINE f32 get(const float* p) { return load<f32>(p); }
  static INLINE void put(float* p, f32 x) { store(p, x); }
};

struct BFloat16 : Narrow<BFloat16> {
  using Element = uint16_t;
  static INLINE f32 get(const uint16_t* p) { return number(widen(load<u16>(p)) << 16); }
  static INLINE void put(uint16_t* p, f32 x) { store(p, narrow(bits(x) >> 16)); }
};

struct Float16 : Narrow<Float16> {
  using Element = uint16_t;
  static INLINE f32 get(const uint16_t* p) { return from_half(load<u16>(p)); }
  static INLINE void put(uint16_t* p, f32 x) { store(p, to_half(x)); }
};

struct Float64 {
  static constexpr bool HAS_NARROW = false;
  using Element = double;
  using Number = double;
  typedef int64_t Pattern __attribute__((vector_size(BYTES)));

  template <int N>
  static INLINE void unpack(const double* p, double* numbers) {
    __builtin_memcpy(numbers, p, N * sizeof(double));
  }
  template <int N>
  static INLINE void pack(double* p, const double* numbers) {
    __builtin_memcpy(p, numbers, N * sizeof(double));
  }
  static INLINE Pattern magnitude(const double* p) {
    return load<Pattern>(p) & 0x7fffffffffffffff;
  }
};

}  // namespace limprec::LIMPREC_LEVEL
