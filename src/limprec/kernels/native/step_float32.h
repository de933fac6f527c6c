// Steps whose memory is float32 throughout and rounds nothing, in one pass.
#pragma once

#include "carriers.h"
#include "step.h"
#include "step_rules.h"

namespace limprec::LIMPREC_LEVEL {

template <Rule RULE, int STATES>
static void step_float32(const StepPlan& plan, const StepSlot& slot, int64_t begin, int64_t end) {
  const uint32_t flags = plan.flags;
  const float* grad = static_cast<const float*>(slot.grad);
  float *p = static_cast<float*>(slot.p), *state[STATES + 1], s[MAX_SCALARS];
  for (int k = 0; k < STATES; k++) state[k] = static_cast<float*>(slot.state[k]);
  __builtin_memcpy(s, plan.scalars, sizeof s);
  for (int64_t at = begin; at < end; at += LANES) {
    f32 kept[STATES + 1];
    for (int k = 0; k < STATES; k++) kept[k] = load<f32>(state[k] + at);
    const f32 w = load<f32>(p + at);
    store(p + at, w + advance<RULE, STATES>(flags, s, load<f32>(grad + at), w, kept));
    for (int k = 0; k < STATES; k++) store(state[k] + at, kept[k]);
  }
}

using StepLoop = void (*)(const StepPlan&, const StepSlot&, int64_t begin, int64_t end);

// The loop for a step, if there is one; it takes whole vectors.
static StepLoop float32_loop(const StepPlan& plan) {
  const auto is_plain = [](const Storage& s) { return s.exact && s.memory == Memory::FLOAT32; };
  bool fits = !plan.has_carry && is_plain(plan.parameter) && plan.grad == Memory::FLOAT32;
  for (int k = 0; k < plan.states; k++) fits = fits && is_plain(plan.state[k]);
  if (!fits) return nullptr;
  if (plan.rule == Rule::SGD && plan.states == 1) return step_float32<Rule::SGD, 1>;
  if (plan.rule == Rule::SGD) return step_float32<Rule::SGD, 0>;
  if (plan.rule == Rule::ADAM && plan.states == 2) return step_float32<Rule::ADAM, 2>;
  if (plan.rule == Rule::LION) return step_float32<Rule::LION, 1>;
  if (plan.rule == Rule::RMSPROP && plan.states == 1) return step_float32<Rule::RMSPROP, 1>;
  return nullptr;
}

}  // namespace limprec::LIMPREC_LEVEL
