// What the operators that round have in common: from their arguments to a plan and its kernels.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "memory.h"
#include "simd.h"

// The key is symbolic, so that a compiled graph serves every training step.
#define LIMPREC_KEY "SymInt seed, SymInt stream, SymInt step, SymInt offset"

namespace limprec {

inline Level level_of(Simd asked) {
  const Simd level = usable_simd(asked);
#if defined(LIMPREC_X86)
  if (level == Simd::AVX512) return {AVX512, SCALED_AVX512};
  if (level == Simd::AVX2) return {AVX2, SCALED_AVX2};
#endif
  (void)level;
  return {PORTABLE, SCALED_PORTABLE};
}

inline Carrier carrier_of(const torch::stable::Tensor& x) {
  using torch::headeronly::ScalarType;
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Carrier::FLOAT32;
    case ScalarType::BFloat16:
      return Carrier::BFLOAT16;
    case ScalarType::Half:
      return Carrier::FLOAT16;
    case ScalarType::Double:
      return Carrier::FLOAT64;
    default:
      STD_TORCH_CHECK(false, "limprec rounds float32, float64, bfloat16 and float16 tensors");
  }
}

// The plan of a request; one that repeats itself, as it does in a loop, is not made anew.
inline Plan plan_of(int64_t spec, Carrier carrier, const Key& key) {
  thread_local Plan last{};
  thread_local int64_t known = -1;
  if (spec != known || carrier != last.carrier) {
    last = make_plan(spec, carrier, key);
    known = spec;
  }
  Plan plan = last;
  plan.key = key;
  return plan;
}

inline Key make_key(int64_t seed, int64_t stream, int64_t step) {
  return {static_cast<uint64_t>(seed), static_cast<uint32_t>(stream), static_cast<uint32_t>(step)};
}

}  // namespace limprec
