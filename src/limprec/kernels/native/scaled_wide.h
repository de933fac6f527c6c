// Power-of-two scales in float64 arithmetic: the float64 carrier, wide codes, and groups whose scale
// float32 does not hold.
#pragma once

#include "stretches.h"
#include "wide.h"

namespace limprec::LIMPREC_LEVEL {

// Exponents that stand for groups without a scale: all NaN, all zeros.
constexpr int64_t NO_NUMBER = 1 << 20, NO_VALUE = 1 << 21;

static INLINE int64_t scale_exponent(const Plan& plan, double top) {
  const Scaling& s = plan.scaling;
  if (!is_finite(top)) return NO_NUMBER;
  if (top == 0) return plan.kind == Kind::DYNAMIC ? NO_VALUE : s.min_exponent;
  const int64_t exponent = exponent_of(top) - s.below;
  return exponent < s.min_exponent ? s.min_exponent
         : exponent > s.max_exponent ? s.max_exponent
                                     : exponent;
}

static INLINE double largest_of(const double* x, int64_t n, double before) {
  int64_t most = pattern(before);
  for (int64_t i = 0; i < n; i++) {
    const int64_t magnitude = pattern(x[i]) & INT64_MAX;
    most = magnitude > most ? magnitude : most;
  }
  return from_pattern(most);
}

template <class Element>
static INLINE double round_scaled(const Element& element, double x, int64_t exponent,
                                  uint32_t word) {
  const int64_t known = exponent < NO_NUMBER ? exponent : 0;
  const double y = scale(element(in_units(x, known), word), known);
  const double zero = x != x ? x : 0.0;
  return exponent == NO_NUMBER ? __builtin_nan("") : exponent == NO_VALUE ? zero : y;
}

// n elements, at most STRETCH; `exponent` gives each its scale.
template <Random TAKEN, class Element, class Exponent>
static INLINE void wide_stretch(const Plan& plan, const Element& element, const Exponent& exponent,
                                const void* x, void* y, int64_t n, const uint32_t* words) {
  double memory[STRETCH];
  double* numbers = unaligned(memory);
  read(plan.carrier, x, n, numbers);
  for (int64_t i = 0; i < n; i++)
    numbers[i] = round_scaled(element, numbers[i], exponent(i), TAKEN == Random::NONE ? 0 : words[i]);
  write(plan.carrier, y, n, numbers);
}

template <Random TAKEN, class Element>
static void wide_run_of(const Plan& plan, double top, const void* x, void* y, int64_t n,
                        uint64_t index) {
  const Element element(plan);
  const int64_t exponent = scale_exponent(plan, top);
  Words<TAKEN> words(plan, index);
  for (int64_t i = 0; i < n; i += STRETCH) {
    const int64_t count = n - i < STRETCH ? n - i : STRETCH;
    wide_stretch<TAKEN>(plan, element, [=](int64_t) ALWAYS { return exponent; }, at(plan, x, i),
                        at(plan, y, i), count, words.next(count));
  }
}

template <Random TAKEN, class Element>
static void wide_columns_of(const Plan& plan, const void* x, void* y, int64_t count,
                            int64_t stride, int64_t n, uint64_t index) {
  const Element element(plan);
  double memory[STRETCH], top_memory[COLUMNS_AT_ONCE];
  double *numbers = unaligned(memory), *tops = unaligned(top_memory);
  int64_t exponent_memory[COLUMNS_AT_ONCE];
  int64_t* exponents = unaligned(exponent_memory);
  for (int64_t i = 0; i < n; i++) tops[i] = 0;
  for (int64_t r = 0; r < count; r++) {
    read(plan.carrier, at(plan, x, r * stride), n, numbers);
    for (int64_t i = 0; i < n; i++) tops[i] = largest_of(numbers + i, 1, tops[i]);
  }
  for (int64_t i = 0; i < n; i++) exponents[i] = scale_exponent(plan, tops[i]);
  for (int64_t r = 0; r < count; r++) {
    Words<TAKEN> words(plan, index + static_cast<uint64_t>(r * stride));
    wide_stretch<TAKEN>(plan, element, [=](int64_t i) ALWAYS { return exponents[i]; },
                        at(plan, x, r * stride), at(plan, y, r * stride), n, words.next(n));
  }
}

struct WideLoops {
  void (*run)(const Plan&, double, const void*, void*, int64_t, uint64_t);
  void (*columns)(const Plan&, const void*, void*, int64_t, int64_t, int64_t, uint64_t);
};

template <Random TAKEN, class Element>
static WideLoops wide_loops() {
  return {wide_run_of<TAKEN, Element>, wide_columns_of<TAKEN, Element>};
}

template <Rounding R, Random TAKEN>
static WideLoops wide_loops(const Plan& plan) {
  if (plan.floating) return wide_loops<TAKEN, WideFloating<R>>();
  return wide_loops<TAKEN, WideFixed<R>>();
}

static WideLoops wide_loops(const Plan& plan) {
  switch (plan.rounding) {
    case Rounding::NEAREST:
      return wide_loops<Rounding::NEAREST, Random::NONE>(plan);
    case Rounding::NEAREST_AWAY:
      return wide_loops<Rounding::NEAREST_AWAY, Random::NONE>(plan);
    case Rounding::TOWARD_ZERO:
      return wide_loops<Rounding::TOWARD_ZERO, Random::NONE>(plan);
    case Rounding::DOWN:
      return wide_loops<Rounding::DOWN, Random::NONE>(plan);
    case Rounding::UP:
      return wide_loops<Rounding::UP, Random::NONE>(plan);
    case Rounding::STOCHASTIC:
      break;
  }
  if (plan.halves) return wide_loops<Rounding::STOCHASTIC, Random::HALVES>(plan);
  return wide_loops<Rounding::STOCHASTIC, Random::WORDS>(plan);
}

static void wide_extremes(const Plan& plan, const void* x, int64_t n, Extremes& found) {
  double memory[STRETCH];
  double* numbers = unaligned(memory);
  double top = __builtin_bit_cast(double, found.magnitude);
  for (int64_t i = 0; i < n; i += STRETCH) {
    const int64_t count = n - i < STRETCH ? n - i : STRETCH;
    read(plan.carrier, at(plan, x, i), count, numbers);
    top = largest_of(numbers, count, top);
  }
  found.magnitude = static_cast<uint64_t>(pattern(top));
}

static void wide_run(const Plan& plan, const Extremes& found, const void* x, void* y, int64_t n,
                     uint64_t index) {
  const float narrow = __builtin_bit_cast(float, static_cast<uint32_t>(found.magnitude));
  const double top = plan.narrow ? narrow : __builtin_bit_cast(double, found.magnitude);
  wide_loops(plan).run(plan, top, x, y, n, index);
}

static void wide_columns(const Plan& plan, const void* x, void* y, int64_t count, int64_t stride,
                         int64_t n, uint64_t index) {
  wide_loops(plan).columns(plan, x, y, count, stride, n, index);
}

static void wide_blocks(const Plan& plan, const Rows& rows, const void* x, void* y, int64_t first,
                        int64_t last) {
  const WideLoops loops = wide_loops(plan);
  const int64_t per_row = (rows.length + rows.block - 1) / rows.block;
  for (; first < last; first++) {
    const int64_t begin = first % per_row * rows.block, left = rows.length - begin;
    const int64_t size = left < rows.block ? left : rows.block;
    const int64_t place = first / per_row * rows.length + begin;
    Extremes found = NOTHING;
    wide_extremes(plan, at(plan, x, place), size, found);
    loops.run(plan, __builtin_bit_cast(double, found.magnitude), at(plan, x, place),
              at(plan, y, place), size, rows.index + static_cast<uint64_t>(place));
  }
}

}  // namespace limprec::LIMPREC_LEVEL
