// What lies between steps, as float32 vectors: memories.h, and units of an ulp.
#pragma once

#include "memories.h"
#include "step.h"

namespace limprec::LIMPREC_LEVEL {

// n numbers from memory, and zeros to the end of the last vector.
static void read(Memory memory, const void* data, int64_t at, int n, float* to) {
  with_memory(memory, [&](auto c) ALWAYS {
    using C = decltype(c);
    using T = typename C::Element;
    const T* from = static_cast<const T*>(data) + at;
    int i = 0;
    for (; i + LANES <= n; i += LANES) store(to + i, C::get(from + i));
    if (i == n) return;
    T memory_of_rest[LANES] = {};
    T* rest = unaligned(memory_of_rest);
    __builtin_memcpy(rest, from + i, static_cast<size_t>(n - i) * sizeof(T));
    store(to + i, C::get(rest));
  });
}

// n numbers to a memory that can hold them.
static void write(Memory memory, void* data, int64_t at, int n, const float* from) {
  with_memory(memory, [&](auto c) ALWAYS {
    using C = decltype(c);
    using T = typename C::Element;
    T* to = static_cast<T*>(data) + at;
    int i = 0;
    for (; i + LANES <= n; i += LANES) C::put(to + i, load<f32>(from + i));
    if (i == n) return;
    T memory_of_rest[LANES];
    T* rest = unaligned(memory_of_rest);
    C::put(rest, load<f32>(from + i));
    __builtin_memcpy(to + i, rest, static_cast<size_t>(n - i) * sizeof(T));
  });
}

// 2^exponent of each lane, -126 to 127.
static INLINE f32 power_of_two_of(i32 exponent) { return number((u32)(exponent + 127) << 23); }

// The exponent of the unit that a compensation in ulps counts, p as stored beside it. Below float32's
// normal numbers any exponent will do: the unit is the finest one.
static INLINE i32 unit_exponent(f32 p, const Ulp& ulp, int ulp_bits) {
  i32 exponent = i32{} + ulp.min_exponent;
  if (!ulp.fixed) {
    i32 a = (i32)(bits(p) & 0x7fffffffu);
    a = a >= 0x7f800000 ? i32{} : a;  // what is not finite counts as 0
    i32 own = (a >> 23) - 127;
    own = own < ulp.min_exponent ? exponent : own;
    exponent = a < static_cast<int32_t>(ulp.flushed) ? exponent : own - ulp.mantissa_bits;
  }
  exponent -= ulp_bits;
  return exponent < FINEST_UNIT ? i32{} + FINEST_UNIT : exponent;
}

// A code of half an ulp upwards, one more than there are, makes p the next value of its format and
// the code half an ulp downwards; other codes that are too large saturate. Nothing below a value
// with a gap above it is taken for the next: there the units differ.
static INLINE void turn_over(f32& p, f32& code, const Ulp& ulp, int ulp_bits) {
  const float half = static_cast<float>(1 << (ulp_bits - 1));
  const i32 unit = unit_exponent(p, ulp, ulp_bits);
  const f32 above = p + power_of_two_of(unit + ulp_bits);
  const i32 unit_above = unit_exponent(above, ulp, ulp_bits);
  const i32 full = (code >= half) & ((p > 0.0f) | (unit_above == unit));
  code = code > half - 1 ? splat(half - 1) : code < -half ? splat(-half) : code;
  code = full ? -half * power_of_two_of(unit - unit_above) : code;
  p = full ? above : p;
}

}  // namespace limprec::LIMPREC_LEVEL
