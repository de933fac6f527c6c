// Stretches of a tensor as float32 or float64 numbers, whatever its carrier: at most STRETCH
// elements, in whole vectors.
#pragma once

#include <stddef.h>

#include "words.h"

namespace limprec::LIMPREC_LEVEL {

// Called once a stretch: copies of it in every loop would only take longer to compile.
#define OUTLINE static __attribute__((noinline, unused))

static INLINE int64_t size_of(Carrier carrier) {
  return carrier == Carrier::FLOAT64 ? 8 : carrier == Carrier::FLOAT32 ? 4 : 2;
}
static INLINE int64_t size_of(Memory memory) {
  return memory == Memory::FLOAT32 ? 4 : memory >= Memory::E4M3 && memory <= Memory::INT8 ? 1 : 2;
}
static INLINE const void* at(const Plan& plan, const void* p, int64_t element) {
  return static_cast<const char*>(p) + element * size_of(plan.carrier);
}
static INLINE void* at(const Plan& plan, void* p, int64_t element) {
  return static_cast<char*>(p) + element * size_of(plan.carrier);
}

template <class C>
static INLINE void read_vectors(const void* p, int64_t n, float* numbers) {
  using T = typename C::Element;
  const T* x = static_cast<const T*>(p);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) store(numbers + i, C::get(x + i));
  if (i == n) return;
  T memory[LANES];
  T* rest = unaligned(memory);
  __builtin_memset(rest, 0, sizeof memory);
  __builtin_memcpy(rest, x + i, static_cast<size_t>(n - i) * sizeof(T));
  store(numbers + i, C::get(rest));
}

template <class C>
static INLINE void write_vectors(void* p, int64_t n, const float* numbers) {
  using T = typename C::Element;
  T* y = static_cast<T*>(p);
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) C::put(y + i, load<f32>(numbers + i));
  if (i == n) return;
  T memory[LANES];
  T* rest = unaligned(memory);
  C::put(rest, load<f32>(numbers + i));
  __builtin_memcpy(y + i, rest, static_cast<size_t>(n - i) * sizeof(T));
}

OUTLINE void read(Carrier carrier, const void* p, int64_t n, float* numbers) {
  switch (carrier) {
    case Carrier::FLOAT32:
      return read_vectors<Float32>(p, n, numbers);
    case Carrier::BFLOAT16:
      return read_vectors<BFloat16>(p, n, numbers);
    case Carrier::FLOAT16:
      return read_vectors<Float16>(p, n, numbers);
    case Carrier::FLOAT64:
      const int64_t whole = (n + LANES - 1) / LANES * LANES;
      for (int64_t i = 0; i < n; i++) numbers[i] = static_cast<float>(static_cast<const double*>(p)[i]);
      for (int64_t i = n; i < whole; i++) numbers[i] = 0;
  }
}

OUTLINE void write(Carrier carrier, void* p, int64_t n, const float* numbers) {
  switch (carrier) {
    case Carrier::FLOAT32:
      return write_vectors<Float32>(p, n, numbers);
    case Carrier::BFLOAT16:
      return write_vectors<BFloat16>(p, n, numbers);
    case Carrier::FLOAT16:
      return write_vectors<Float16>(p, n, numbers);
    case Carrier::FLOAT64:
      for (int64_t i = 0; i < n; i++) static_cast<double*>(p)[i] = numbers[i];
  }
}

// A stretch to be read and written in float32: in the tensor itself where that is possible, else
// in a buffer of STRETCH elements, zeros behind the last.
struct Stretch {
  const float* in;
  float* out;

  INLINE Stretch(const Plan& plan, const void* x, void* y, int64_t n, float* buffer) {
    const bool direct = plan.carrier == Carrier::FLOAT32 && n % LANES == 0;
    if (!direct) read(plan.carrier, x, n, buffer);
    in = direct ? static_cast<const float*>(x) : buffer;
    out = direct ? static_cast<float*>(y) : buffer;
  }
  INLINE void finish(const Plan& plan, void* y, int64_t n) const {
    if (out != y) write(plan.carrier, y, n, out);
  }
};

OUTLINE void read(Carrier carrier, const void* p, int64_t n, double* numbers) {
  if (carrier == Carrier::FLOAT64) {
    __builtin_memcpy(numbers, p, static_cast<size_t>(n) * sizeof(double));
    return;
  }
  float memory[STRETCH];
  float* narrow = unaligned(memory);
  read(carrier, p, n, narrow);
  for (int64_t i = 0; i < n; i++) numbers[i] = narrow[i];
}

OUTLINE void write(Carrier carrier, void* p, int64_t n, const double* numbers) {
  if (carrier == Carrier::FLOAT64) {
    __builtin_memcpy(p, numbers, static_cast<size_t>(n) * sizeof(double));
    return;
  }
  float memory[STRETCH];
  float* narrow = unaligned(memory);
  for (int64_t i = 0; i < n; i++) narrow[i] = static_cast<float>(numbers[i]);
  write(carrier, p, n, narrow);
}

}  // namespace limprec::LIMPREC_LEVEL
