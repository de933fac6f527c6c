// The loops. Compiled once per instruction set, with LIMPREC_LEVEL and LIMPREC_TABLE naming the
// copy; it includes no library header whose inline code another copy could end up with.
#include "loops.h"
#include "narrow.h"
#include "plan.h"
#include "wide.h"

namespace limprec {
namespace LIMPREC_LEVEL {

template <class C, Random TAKEN, class Rounder>
static void narrow_loop(const Plan& plan, const void* x, void* y, int64_t n, uint64_t index) {
  using T = typename C::Element;
  const Rounder round(plan);
  each_group_with_words<TAKEN>(
      plan, static_cast<const T*>(x), static_cast<T*>(y), n, index,
      [&](const T* in, T* out, const u32* words) ALWAYS {
#pragma GCC unroll 8
        for (int i = 0; i < VECTORS; i++)
          C::put(out + i * LANES, round(C::get(in + i * LANES), words[i]));
      });
}

template <class C, Random TAKEN, class Rounder>
static void wide_loop(const Plan& plan, const void* x, void* y, int64_t n, uint64_t index) {
  using T = typename C::Element;
  const Rounder round(plan);
  each_group_with_words<TAKEN>(
      plan, static_cast<const T*>(x), static_cast<T*>(y), n, index,
      [&](const T* in, T* out, const u32* words) ALWAYS {
        typename C::Number memory[GROUP];
        uint32_t word_memory[GROUP];
        auto numbers = unaligned(memory);
        auto word = unaligned(word_memory);
        C::template unpack<GROUP>(in, numbers);
        constexpr bool RANDOM = TAKEN != Random::NONE;
        if constexpr (RANDOM) __builtin_memcpy(word, words, sizeof word_memory);
        for (int i = 0; i < GROUP; i++)
          numbers[i] = static_cast<typename C::Number>(round(numbers[i], RANDOM ? word[i] : 0));
        C::template pack<GROUP>(out, numbers);
      });
}

using Loop = void (*)(const Plan&, const void*, void*, int64_t, uint64_t);

template <class C, Rounding R, Random TAKEN>
static Loop loop_for(const Plan& plan) {
  const bool floating = plan.floating;
  if constexpr (C::HAS_NARROW) {
    if (plan.narrow && floating && plan.narrow_floating.limit != 0)
      return narrow_loop<C, TAKEN, Floating<R, true>>;
    if (plan.narrow && floating) return narrow_loop<C, TAKEN, Floating<R, false>>;
    if (plan.narrow) return narrow_loop<C, TAKEN, Fixed<R>>;
  }
  if (floating) return wide_loop<C, TAKEN, WideFloating<R>>;
  if (plan.wide.modulus != 0) return wide_loop<C, TAKEN, WideWrapping<R>>;
  return wide_loop<C, TAKEN, WideFixed<R>>;
}

template <class C, Rounding R>
static Loop loop_for(const Plan& plan) {
  if constexpr (R != Rounding::STOCHASTIC) return loop_for<C, R, Random::NONE>(plan);
  if (plan.halves) return loop_for<C, R, Random::HALVES>(plan);
  return loop_for<C, R, Random::WORDS>(plan);
}

template <class C>
static Loop loop_for(const Plan& plan) {
  switch (plan.rounding) {
    case Rounding::NEAREST:
      return loop_for<C, Rounding::NEAREST>(plan);
    case Rounding::NEAREST_AWAY:
      return loop_for<C, Rounding::NEAREST_AWAY>(plan);
    case Rounding::TOWARD_ZERO:
      return loop_for<C, Rounding::TOWARD_ZERO>(plan);
    case Rounding::DOWN:
      return loop_for<C, Rounding::DOWN>(plan);
    case Rounding::UP:
      return loop_for<C, Rounding::UP>(plan);
    case Rounding::STOCHASTIC:
      return loop_for<C, Rounding::STOCHASTIC>(plan);
  }
  return nullptr;
}

static Loop loop_for(const Plan& plan) {
  switch (plan.carrier) {
    case Carrier::FLOAT32:
      return loop_for<Float32>(plan);
    case Carrier::BFLOAT16:
      return loop_for<BFloat16>(plan);
    case Carrier::FLOAT16:
      return loop_for<Float16>(plan);
    case Carrier::FLOAT64:
      return loop_for<Float64>(plan);
  }
  return nullptr;
}

static void round(const Plan& plan, const void* x, void* y, int64_t n, uint64_t index) {
  loop_for(plan)(plan, x, y, n, index);
}

}  // namespace LIMPREC_LEVEL

const Kernels LIMPREC_TABLE = {LIMPREC_LEVEL::round};

}  // namespace limprec
