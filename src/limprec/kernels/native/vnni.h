// AVX-512 with the dot product of bytes (VNNI): what the kernels on int8 codes share.
#pragma once

#include <stdint.h>

#if defined(LIMPREC_X86)

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarms in GCC's own AVX-512 header
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <immintrin.h>

#include <new>

#include "exact.h"

#define VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")))
#define VNNI_INLINE inline __attribute__((always_inline)) VNNI

namespace limprec {

constexpr int LANES = 16;  // 32-bit numbers in a vector

inline int64_t up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Four rows of at most 64 bytes each, of which the mask is there, to four vectors: in each 32-bit
// lane one byte of each row, of 16 neighbours.
VNNI_INLINE void interleave(const __m512i* rows, __m512i* out) {
  const __m512i a = _mm512_unpacklo_epi8(rows[0], rows[1]), b = _mm512_unpackhi_epi8(rows[0], rows[1]);
  const __m512i c = _mm512_unpacklo_epi8(rows[2], rows[3]), d = _mm512_unpackhi_epi8(rows[2], rows[3]);
  const __m512i e = _mm512_unpacklo_epi16(a, c), f = _mm512_unpackhi_epi16(a, c);
  const __m512i g = _mm512_unpacklo_epi16(b, d), h = _mm512_unpackhi_epi16(b, d);
  // Lane i of 128 bits: e has neighbours 16 i .. +3, f +4 .. +7, g +8 .. +11, h +12 .. +15.
  const __m512i ef0 = _mm512_shuffle_i32x4(e, f, 0x44), ef1 = _mm512_shuffle_i32x4(e, f, 0xee);
  const __m512i gh0 = _mm512_shuffle_i32x4(g, h, 0x44), gh1 = _mm512_shuffle_i32x4(g, h, 0xee);
  // ef0 = e0 e1 f0 f1, gh0 = g0 g1 h0 h1: out0 = e0 f0 g0 h0.
  out[0] = _mm512_shuffle_i32x4(ef0, gh0, 0x88);
  out[1] = _mm512_shuffle_i32x4(ef0, gh0, 0xdd);
  out[2] = _mm512_shuffle_i32x4(ef1, gh1, 0x88);
  out[3] = _mm512_shuffle_i32x4(ef1, gh1, 0xdd);
}

VNNI_INLINE __mmask64 first(int64_t count) {
  return count >= 64 ? ~__mmask64{0} : count <= 0 ? 0 : (__mmask64{1} << count) - 1;
}

// The first lanes of a vector.
inline uint16_t lanes(int64_t count) {
  return static_cast<uint16_t>(count >= LANES ? 0xffff : count <= 0 ? 0 : (1u << count) - 1);
}

// 16 vectors of 16 lanes, transposed.
VNNI_INLINE void transpose(__m512i* x) {
  __m512i y[16];
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(x[i], x[i + 1]), b = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(x[i + 2], x[i + 3]);
    const __m512i d = _mm512_unpackhi_epi32(x[i + 2], x[i + 3]);
    y[i] = _mm512_unpacklo_epi64(a, c), y[i + 1] = _mm512_unpackhi_epi64(a, c);
    y[i + 2] = _mm512_unpacklo_epi64(b, d), y[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
  // y[4 g + j]: in part p the lanes 4 p + j of rows 4 g .. 4 g + 3.
  for (int j = 0; j < 4; j++) {
    const __m512i a = _mm512_shuffle_i32x4(y[j], y[4 + j], 0x44);
    const __m512i b = _mm512_shuffle_i32x4(y[j], y[4 + j], 0xee);
    const __m512i c = _mm512_shuffle_i32x4(y[8 + j], y[12 + j], 0x44);
    const __m512i d = _mm512_shuffle_i32x4(y[8 + j], y[12 + j], 0xee);
    x[j] = _mm512_shuffle_i32x4(a, c, 0x88), x[4 + j] = _mm512_shuffle_i32x4(a, c, 0xdd);
    x[8 + j] = _mm512_shuffle_i32x4(b, d, 0x88), x[12 + j] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Sums become float32 numbers.
struct Scale {
  bool narrow;  // whether float32 arithmetic rounds once
  double scale;

  explicit Scale(double scale) : narrow(exact_in_float32(scale)), scale(scale) {}

  VNNI_INLINE __m512 of(__m512i sum) const {
    if (narrow)
      return _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(static_cast<float>(scale)));
    const __m512d factor = _mm512_set1_pd(scale);
    const __m512d low = _mm512_cvtepi32_pd(_mm512_castsi512_si256(sum));
    const __m512d high = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(sum, 1));
    const __m256 a = _mm512_cvtpd_ps(_mm512_mul_pd(low, factor));
    const __m256 b = _mm512_cvtpd_ps(_mm512_mul_pd(high, factor));
    return _mm512_insertf32x8(_mm512_castps256_ps512(a), b, 1);
  }
};

// Memory that starts at a cache line.
struct Room {
  explicit Room(int64_t bytes)
      : data(static_cast<char*>(
            ::operator new(static_cast<size_t>(bytes) + 64, std::align_val_t{64}))) {}
  ~Room() { ::operator delete(data, std::align_val_t{64}); }
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;
  char* const data;
};

}  // namespace limprec

#endif
