// The loops of narrow storage. Compiled once per instruction set, as kernels.cpp is.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // false alarms in GCC's own AVX-512 header
#endif

#include "codes.h"
#include "memories.h"
#include "stretches.h"

namespace limprec {
namespace LIMPREC_LEVEL {

// Whole vectors, and what is left of n through a buffer: step(in, out) for pointers to LANES elements.
template <class T, class U, class Step>
static INLINE void each_vector(const T* x, U* y, int64_t n, Step&& step) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) step(x + i, y + i);
  if (i == n) return;
  T in_memory[LANES] = {};
  U out_memory[LANES];
  T* in = unaligned(in_memory);
  U* out = unaligned(out_memory);
  __builtin_memcpy(in, x + i, static_cast<size_t>(n - i) * sizeof(T));
  step(in, out);
  __builtin_memcpy(y + i, out, static_cast<size_t>(n - i) * sizeof(U));
}

static bool narrow_floats(const Counting& counting, const float* x, void* codes, int64_t n) {
  i32 nan{};
  with_memory(counting.memory, [&](auto memory) ALWAYS {
    using M = decltype(memory);
    using U = typename M::Element;
    const f32 first = splat(counting.factors[0]), second = splat(counting.factors[1]);
    each_vector(x, static_cast<U*>(codes), n, [&](const float* in, U* out) ALWAYS {
      f32 v = load<f32>(in);
      if constexpr (M::INTEGER) {
        nan |= v != v;
        v = v == v ? v * first * second : f32{};
      }
      M::put(out, v);
    });
  });
  return greatest((i32)((u32)nan >> 1)) != 0;
}

static bool narrow(const Counting& counting, Carrier carrier, const void* x, void* codes, int64_t n) {
  if (carrier == Carrier::FLOAT32)
    return narrow_floats(counting, static_cast<const float*>(x), codes, n);
  const int64_t size = size_of(carrier), code = size_of(counting.memory);
  bool nan = false;
  float memory[STRETCH];
  float* buffer = unaligned(memory);
  for (int64_t i = 0; i < n; i += STRETCH) {
    const int64_t count = n - i < STRETCH ? n - i : STRETCH;
    read(carrier, static_cast<const char*>(x) + i * size, count, buffer);
    nan |= narrow_floats(counting, buffer, static_cast<char*>(codes) + i * code, count);
  }
  return nan;
}

static void widen_floats(Memory memory, float scale, const void* codes, float* y, int64_t n) {
  with_memory(memory, [&](auto kind) ALWAYS {
    using M = decltype(kind);
    using T = typename M::Element;
    const f32 factor = splat(scale);
    each_vector(static_cast<const T*>(codes), y, n, [&](const T* in, float* out) ALWAYS {
      const f32 v = M::get(in);
      store(out, M::INTEGER ? v * factor : v);
    });
  });
}

static void widen(Memory memory, float scale, Carrier carrier, const void* codes, void* y, int64_t n) {
  if (carrier == Carrier::FLOAT32)
    return widen_floats(memory, scale, codes, static_cast<float*>(y), n);
  const int64_t size = size_of(carrier), code = size_of(memory);
  float numbers[STRETCH];
  float* buffer = unaligned(numbers);
  for (int64_t i = 0; i < n; i += STRETCH) {
    const int64_t count = n - i < STRETCH ? n - i : STRETCH;
    widen_floats(memory, scale, static_cast<const char*>(codes) + i * code, buffer, count);
    write(carrier, static_cast<char*>(y) + i * size, count, buffer);
  }
}

// Masks

constexpr int SET = 16;  // elements whose bits are two bytes

// The sign bits of the lanes.
#if defined(__AVX512F__)
static INLINE uint32_t signs(i32 x) { return _mm512_movepi32_mask((__m512i)x); }
#elif defined(__AVX2__)
static INLINE uint32_t signs(i32 x) {
  return static_cast<uint32_t>(_mm256_movemask_ps((__m256)x));
}
#elif defined(__SSE2__)
static INLINE uint32_t signs(i32 x) { return static_cast<uint32_t>(_mm_movemask_ps((__m128)x)); }
#else
static INLINE uint32_t signs(i32 x) {
  uint32_t all = 0;
  for (int lane = 0; lane < LANES; lane++) all |= static_cast<uint32_t>(x[lane] < 0) << lane;
  return all;
}
#endif

// Lanes of all ones where the word has 1, from its lowest bit up.
static INLINE i32 lanes_of(uint32_t word) {
  u32 place{};
  for (int lane = 0; lane < LANES; lane++) place[lane] = 1u << lane;
  return (i32)(splat(word) & place) != 0;
}

// Calls step(in, mask, out) for every SET elements; the last ones through a buffer, zeros behind them.
template <bool WRITES, class T, class Byte, class Step>
static INLINE void each_set(const T* x, Byte* mask, T* y, int64_t n, Step&& step) {
  int64_t i = 0;
  for (; i + SET <= n; i += SET) step(x + i, mask + i / 8, y + i);
  if (i == n) return;
  const size_t rest = static_cast<size_t>(n - i), bytes = (rest + 7) / 8;
  T memory[SET] = {};
  T* buffer = unaligned(memory);
  uint8_t bits[2] = {};
  __builtin_memcpy(buffer, x + i, rest * sizeof(T));
  __builtin_memcpy(bits, mask + i / 8, bytes);
  step(buffer, bits, buffer);
  __builtin_memcpy(y + i, buffer, rest * sizeof(T));
  if constexpr (WRITES) __builtin_memcpy(mask + i / 8, bits, bytes);
}

template <class C>
static void relu_of(float ceiling, const void* x, void* y, uint8_t* mask, int64_t n) {
  using T = typename C::Element;
  const f32 zero{}, top = splat(ceiling);
  each_set<true>(static_cast<const T*>(x), mask, static_cast<T*>(y), n,
           [&](const T* in, uint8_t* bytes, T* out) ALWAYS {
             uint32_t word = 0;
             for (int i = 0; i < SET; i += LANES) {
               const f32 v = C::get(in + i), floored = v < zero ? zero : v;
               C::put(out + i, floored > top ? top : floored);
               word |= signs(~((v <= zero) | (v >= top))) << i;
             }
             bytes[0] = static_cast<uint8_t>(word), bytes[1] = static_cast<uint8_t>(word >> 8);
           });
}

static void relu(Carrier carrier, float ceiling, const void* x, void* y, uint8_t* mask, int64_t n) {
  if (carrier == Carrier::FLOAT32) return relu_of<Float32>(ceiling, x, y, mask, n);
  if (carrier == Carrier::BFLOAT16) return relu_of<BFloat16>(ceiling, x, y, mask, n);
  relu_of<Float16>(ceiling, x, y, mask, n);
}

static INLINE u32 get(const uint32_t* p) { return load<u32>(p); }
static INLINE void put(uint32_t* p, u32 x) { store(p, x); }
static INLINE u32 get(const uint16_t* p) { return widen(load<u16>(p)); }
static INLINE void put(uint16_t* p, u32 x) { store(p, narrow(x)); }

template <class T>
static void mask_of(const void* x, const uint8_t* mask, void* y, int64_t n) {
  each_set<false>(static_cast<const T*>(x), mask, static_cast<T*>(y), n,
           [&](const T* in, const uint8_t* bytes, T* out) ALWAYS {
             const uint32_t word = bytes[0] | static_cast<uint32_t>(bytes[1]) << 8;
             for (int i = 0; i < SET; i += LANES)
               put(out + i, get(in + i) & (u32)lanes_of(word >> i));
           });
}

static void mask(Carrier carrier, const void* x, const uint8_t* mask, void* y, int64_t n) {
  if (carrier == Carrier::FLOAT32) return mask_of<uint32_t>(x, mask, y, n);
  mask_of<uint16_t>(x, mask, y, n);
}

}  // namespace LIMPREC_LEVEL

#define LIMPREC_JOIN(a, b) a##b
#define LIMPREC_NAME(table) LIMPREC_JOIN(CODES_, table)
const CodeKernels LIMPREC_NAME(LIMPREC_TABLE) = {LIMPREC_LEVEL::narrow, LIMPREC_LEVEL::widen,
                                                 LIMPREC_LEVEL::relu, LIMPREC_LEVEL::mask};

}  // namespace limprec
