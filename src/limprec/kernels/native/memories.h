// The numbers of carriers.h and of the dtypes of one byte and of integers, each read and written as
// float32 vectors. Written is only what a memory can hold.
#pragma once

#include "carriers.h"

namespace limprec::LIMPREC_LEVEL {

static INLINE f32 to_float(i32 x) { return __builtin_convertvector(x, f32); }
static INLINE i32 to_integer(f32 x) { return __builtin_convertvector(x, i32); }

// The bytes of a vector of lanes, and back from the low byte of each lane.
#if defined(__AVX512F__)
static INLINE u32 load_bytes(const void* p) { return (u32)_mm512_cvtepu8_epi32(load<__m128i>(p)); }
static INLINE void store_bytes(void* p, u32 b) { store(p, _mm512_cvtepi32_epi8((__m512i)b)); }
#elif defined(__AVX2__)
static INLINE u32 load_bytes(const void* p) {
  return (u32)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(load<int64_t>(p)));
}
static INLINE void store_bytes(void* p, u32 b) {
  const __m256i each = _mm256_shuffle_epi8((__m256i)b, _mm256_set1_epi32(0x0c080400));
  const __m128i low = _mm256_castsi256_si128(each), high = _mm256_extracti128_si256(each, 1);
  store(p, _mm_cvtsi128_si64(_mm_unpacklo_epi32(low, high)));
}
#else
typedef uint8_t u8 __attribute__((vector_size(BYTES / 4)));
static INLINE u32 load_bytes(const void* p) { return __builtin_convertvector(load<u8>(p), u32); }
static INLINE void store_bytes(void* p, u32 b) { store(p, __builtin_convertvector(b, u8)); }
#endif

// The bytes of four vectors of integers that each fit one: a byte with a sign, or without.
#if defined(__AVX512F__)
static INLINE void store_in_order(void* p, __m512i x) {  // in each 128 bits four bytes of each vector
  const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  store(p, _mm512_permutexvar_epi32(order, x));
}
static INLINE void store_four(void* p, const i32* x) {
  const __m512i low = _mm512_packs_epi32((__m512i)x[0], (__m512i)x[1]);
  store_in_order(p, _mm512_packs_epi16(low, _mm512_packs_epi32((__m512i)x[2], (__m512i)x[3])));
}
static INLINE void store_four(void* p, const u32* x) {
  const __m512i low = _mm512_packus_epi32((__m512i)x[0], (__m512i)x[1]);
  store_in_order(p, _mm512_packus_epi16(low, _mm512_packus_epi32((__m512i)x[2], (__m512i)x[3])));
}
#else
template <class V>
static INLINE void store_four(void* p, const V* x) {
  for (int i = 0; i < 4; i++) store_bytes(static_cast<char*>(p) + i * LANES, (u32)x[i]);
}
#endif

// OCP's e4m3: no infinity, one NaN. Numbers below 2^-6 are multiples of 2^-9, and are counted: the
// processor is slow with subnormal float32.
struct E4M3 {
  static constexpr bool INTEGER = false;
  using Element = uint8_t;
  static INLINE f32 get(const uint8_t* p) {
    const u32 b = load_bytes(p), a = b & 0x7fu;
    const u32 small = bits(to_float((i32)a) * 0x1p-9f), normal = (a << 20) + (120u << 23);
    const u32 magnitude = (i32)a < 8 ? small : (i32)a == 0x7f ? splat(0x7fc00000u) : normal;
    return number(magnitude | (b & 0x80u) << 24);
  }
  static INLINE void put(uint8_t* p, f32 x) { store_bytes(p, code(x)); }
  static INLINE void put_four(uint8_t* p, const f32* x) {
    const u32 codes[] = {code(x[0]), code(x[1]), code(x[2]), code(x[3])};
    store_four(p, codes);
  }

 private:
  static INLINE u32 code(f32 x) {
    const u32 b = bits(x), a = b & 0x7fffffffu;
    const u32 small = (u32)to_integer(number(a) * 0x1p9f), normal = (a - (120u << 23)) >> 20;
    const u32 magnitude = (i32)a < 121 << 23 ? small : (i32)a >= 0x7f800000 ? splat(0x7fu) : normal;
    return magnitude | (b >> 24 & 0x80u);
  }
};

// The upper half of a half.
struct E5M2 {
  static constexpr bool INTEGER = false;
  using Element = uint8_t;
  static INLINE f32 get(const uint8_t* p) { return from_half(narrow(load_bytes(p) << 8)); }
  static INLINE void put(uint8_t* p, f32 x) { store_bytes(p, code(x)); }
  static INLINE void put_four(uint8_t* p, const f32* x) {
    const u32 codes[] = {code(x[0]), code(x[1]), code(x[2]), code(x[3])};
    store_four(p, codes);
  }

 private:
  static INLINE u32 code(f32 x) { return widen(to_half(x)) >> 8; }
};

struct Int8 {
  static constexpr bool INTEGER = true;
  using Element = int8_t;
  static INLINE f32 get(const int8_t* p) { return to_float((i32)(load_bytes(p) << 24) >> 24); }
  static INLINE void put(int8_t* p, f32 x) { store_bytes(p, (u32)to_integer(x)); }
  static INLINE void put_four(int8_t* p, const i32* x) { store_four(p, x); }
};

struct Int16 {
  static constexpr bool INTEGER = true;
  using Element = int16_t;
  static INLINE f32 get(const int16_t* p) {
    return to_float((i32)(widen(load<u16>(p)) << 16) >> 16);
  }
  static INLINE void put(int16_t* p, f32 x) { store(p, narrow((u32)to_integer(x))); }
  static INLINE void put_four(int16_t* p, const i32* x) {
    for (int i = 0; i < 4; i++) store(p + i * LANES, narrow((u32)x[i]));
  }
};

// Calls work(C{}) with the class of a memory.
template <class Work>
static INLINE void with_memory(Memory memory, Work&& work) {
  switch (memory) {
    case Memory::FLOAT32:
      return work(Float32{});
    case Memory::BFLOAT16:
      return work(BFloat16{});
    case Memory::FLOAT16:
      return work(Float16{});
    case Memory::E4M3:
      return work(E4M3{});
    case Memory::E5M2:
      return work(E5M2{});
    case Memory::INT8:
      return work(Int8{});
    case Memory::INT16:
      return work(Int16{});
  }
}

}  // namespace limprec::LIMPREC_LEVEL
