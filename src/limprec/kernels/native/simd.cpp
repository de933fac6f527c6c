// Asking the CPU what it has.
#include "simd.h"

#include <torch/headeronly/util/Exception.h>

#if defined(LIMPREC_X86)
#include <cpuid.h>
#endif

namespace limprec {

Simd best_simd() {
#if defined(LIMPREC_X86)
  static const Simd best = [] {
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return Simd::AVX512;
    unsigned a, b, c, d;
    const bool half = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
    return half && __builtin_cpu_supports("avx2") ? Simd::AVX2 : Simd::PORTABLE;
  }();
  return best;
#else
  return Simd::PORTABLE;
#endif
}

Simd usable_simd(Simd asked) {
  const Simd best = best_simd();
  STD_TORCH_CHECK(asked <= best, "this CPU lacks the instruction set asked for");
  return asked == Simd::AUTO ? best : asked;
}

}  // namespace limprec
