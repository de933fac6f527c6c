// Loading and storing carrier values: as float32 vectors (get, put), as magnitudes whose order is
// that of integers (magnitude), and as groups of scalars for float64 arithmetic (unpack, pack).
// Rounded values fit their carrier, so a store only drops zeros.
#pragma once

#include "lanes.h"

namespace limprec::LIMPREC_LEVEL {

template <class T>
static inline T load(const void* p) {
  T v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

template <class T>
static inline void store(void* p, T v) {
  __builtin_memcpy(p, &v, sizeof v);
}

static inline u32 widen(u16 h) { return __builtin_convertvector(h, u32); }
static inline u16 narrow(u32 b) { return __builtin_convertvector(b, u16); }

// What the carriers of at most 32 bits share.
template <class C>
struct Narrow {
  static constexpr bool HAS_NARROW = true;
  using Number = float;
  using Pattern = i32;

  template <class T>
  static inline void unpack(const T* p, float* numbers) {
    for (int i = 0; i < WORDS; i += LANES) store(numbers + i, C::get(p + i));
  }
  template <class T>
  static inline void pack(T* p, const float* numbers) {
    for (int i = 0; i < WORDS; i += LANES) C::put(p + i, load<f32>(numbers + i));
  }
  template <class T>
  static inline i32 magnitude(const T* p) {
    return (i32)(bits(C::get(p)) & 0x7fffffffu);
  }
};

struct Float32 : Narrow<Float32> {
  using Element = float;
  static inline f32 get(const float* p) { return load<f32>(p); }
  static inline void put(float* p, f32 x) { store(p, x); }
};

struct BFloat16 : Narrow<BFloat16> {
  using Element = uint16_t;
  static inline f32 get(const uint16_t* p) { return number(widen(load<u16>(p)) << 16); }
  static inline void put(uint16_t* p, f32 x) { store(p, narrow(bits(x) >> 16)); }
};

struct Float16 : Narrow<Float16> {  // by scaling, which handles subnormals too
  using Element = uint16_t;
  static inline f32 get(const uint16_t* p) {
    const u32 h = widen(load<u16>(p));
    const u32 magnitude = (h & 0x7fffu) << 13;
    const u32 finite = bits(number(magnitude) * 0x1p112f);
    const u32 special = magnitude | 0x7f800000u;
    const u32 result = (i32)magnitude >= 0x7c00 << 13 ? special : finite;
    return number(result | (h & 0x8000u) << 16);
  }
  static inline void put(uint16_t* p, f32 x) {
    const u32 b = bits(x), magnitude = b & 0x7fffffffu;
    const u32 finite = bits(number(magnitude) * 0x1p-112f) >> 13;
    const u32 special = magnitude >> 13 & 0x7fffu;
    const u32 result = (i32)magnitude >= 0x7f800000 ? special : finite;
    store(p, narrow(result | (b >> 16 & 0x8000u)));
  }
};

struct Float64 {
  static constexpr bool HAS_NARROW = false;
  using Element = double;
  using Number = double;
  typedef int64_t Pattern __attribute__((vector_size(BYTES)));

  static inline void unpack(const double* p, double* numbers) {
    __builtin_memcpy(numbers, p, WORDS * sizeof(double));
  }
  static inline void pack(double* p, const double* numbers) {
    __builtin_memcpy(p, numbers, WORDS * sizeof(double));
  }
  static inline Pattern magnitude(const double* p) {
    return load<Pattern>(p) & 0x7fffffffffffffff;
  }
};

}  // namespace limprec::LIMPREC_LEVEL
