// Any step: a few hundred elements at a time go through float32 buffers that stay in the first
// cache. Every stage (reading, the rule, rounding, writing) is a loop of its own over them.
#pragma once

#include <stddef.h>

#include "step_memory.h"
#include "step_rules.h"
#include "step_write_back.h"

namespace limprec {
extern const Kernels LIMPREC_TABLE;  // of this instruction set

namespace LIMPREC_LEVEL {

constexpr int CHUNK = 256;

struct Buffers {
  float g[CHUNK], w[CHUNK], p[CHUNK], carry[CHUNK], total[CHUNK];
  float state[MAX_STATES][CHUNK], scaled[CHUNK];
};

// Where a chunk lies in its parameter.
struct Place {
  const StepSlot& slot;
  const Key& key;
  int64_t at;
  int n;
};

template <class Work>
static INLINE void each_vector(int n, Work&& work) {
  for (int i = 0; i < n; i += LANES) work(i);
}

static inline void round_chunk(const Plan& plan, bool exact, const Place& here, uint32_t place,
                               float* x) {
  if (exact) return;
  Plan mine = plan;
  mine.key = here.key;
  mine.key.stream = here.slot.stream + place;
  LIMPREC_TABLE.round(mine, x, x, here.n, here.slot.offset + static_cast<uint64_t>(here.at));
}

// Blocks under one scale: the scales of a chunk's blocks are computed a vector at a time.

constexpr int BLOCKS = CHUNK / BLOCK;
constexpr int SCALES = BLOCKS > LANES ? BLOCKS : LANES;

static void read_blocks(const Storage& storage, const void* data, const uint8_t* scale,
                        const Place& here, float* to) {
  read(storage.memory, data, here.at, here.n, to);
  const int count = (here.n + BLOCK - 1) / BLOCK;
  uint8_t code[SCALES] = {};
  float factor[SCALES], second[SCALES];
  __builtin_memcpy(code, scale + here.at / BLOCK, static_cast<size_t>(count));
  for (int b = 0; b < count; b += LANES) {
    const u32 c = load_bytes(code + b);
    const f32 one = number((c == 0 ? splat(1u) : c) << 23);
    store(factor + b, c == 255 ? splat(__builtin_nanf("")) : one);
    store(second + b, c == 0 ? splat(0.5f) : splat(1.0f));  // 2^-127 in two factors that are normal
  }
  for (int b = 0; b < count; b++) {
    float* x = to + b * BLOCK;
    each_vector(BLOCK, [&](int i) ALWAYS { store(x + i, load<f32>(x + i) * factor[b] * second[b]); });
  }
}

static INLINE int32_t largest_lane(i32 x) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_epi32((__m512i)x);
#elif defined(__AVX2__)
  const __m128i low = _mm256_castsi256_si128((__m256i)x);
  __m128i most = _mm_max_epi32(low, _mm256_extracti128_si256((__m256i)x, 1));
  most = _mm_max_epi32(most, _mm_shuffle_epi32(most, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(most, _mm_shuffle_epi32(most, 0xb1)));
#else
  int32_t most = x[0];
  for (int lane = 1; lane < LANES; lane++) most = x[lane] > most ? x[lane] : most;
  return most;
#endif
}

// The bit pattern of the largest magnitude of a block.
static INLINE int32_t largest(const float* x) {
  i32 most{};
  each_vector(BLOCK, [&](int i) ALWAYS {
    const i32 a = (i32)(load<u32>(x + i) & 0x7fffffffu);
    most = a > most ? a : most;
  });
  return largest_lane(most);
}

static void write_blocks(const Storage& storage, void* data, uint8_t* scale, const Place& here,
                         uint32_t place, float* x, float* scaled) {
  for (int i = here.n; i % BLOCK != 0; i++) x[i] = 0;
  const int count = (here.n + BLOCK - 1) / BLOCK;
  int32_t top[SCALES] = {};
  uint8_t code[SCALES];
  float factor[SCALES];
  for (int b = 0; b < count; b++) top[b] = largest(x + b * BLOCK);
  for (int b = 0; b < count; b += LANES) {
    const i32 a = load<i32>(top + b), wanted = (a >> 23) - storage.max_exponent;
    const i32 biased = wanted < 0 ? i32{} : wanted, is_nan = a >= 0x7f800000;
    store_bytes(code + b, (u32)(is_nan ? i32{} + 255 : biased));
    store(factor + b, is_nan ? splat(__builtin_nanf("")) : number((u32)(254 - biased) << 23));
  }
  __builtin_memcpy(scale + here.at / BLOCK, code, static_cast<size_t>(count));
  for (int b = 0; b < count; b++)
    each_vector(BLOCK, [&](int i) ALWAYS {
      store(scaled + b * BLOCK + i, load<f32>(x + b * BLOCK + i) * factor[b]);
    });
  round_chunk(storage.plan, false, here, place, scaled);
  if (storage.above_zero) {
    each_vector(here.n, [&](int i) ALWAYS {
      const f32 element = load<f32>(scaled + i);
      const i32 lost = (element == 0) & (load<f32>(x + i) > 0);
      store(scaled + i, lost ? splat(storage.smallest) : element);
    });
  }
  write(storage.memory, data, here.at, here.n, scaled);
}

// Rule and states.

template <Rule RULE, int STATES>
static void advance_chunk(const StepPlan& plan, int n, Buffers& b) {
  const uint32_t flags = plan.flags;
  each_vector(n, [&](int i) ALWAYS {
    f32 kept[STATES + 1];
    for (int k = 0; k < STATES; k++) kept[k] = load<f32>(b.state[k] + i);
    const f32 g = load<f32>(b.g + i), w = load<f32>(b.w + i);
    store(b.g + i, advance<RULE, STATES>(flags, plan.scalars, g, w, kept));
    for (int k = 0; k < STATES; k++) store(b.state[k] + i, kept[k]);
  });
}

static void advance_chunk(const StepPlan& plan, int n, Buffers& b) {
  switch (plan.rule) {
    case Rule::SGD:
      return plan.states == 0 ? advance_chunk<Rule::SGD, 0>(plan, n, b)
                              : advance_chunk<Rule::SGD, 1>(plan, n, b);
    case Rule::ADAM:
      return plan.states == 2 ? advance_chunk<Rule::ADAM, 2>(plan, n, b)
                              : advance_chunk<Rule::ADAM, 3>(plan, n, b);
    case Rule::LION:
      return advance_chunk<Rule::LION, 1>(plan, n, b);
    case Rule::RMSPROP:
      return plan.states == 1   ? advance_chunk<Rule::RMSPROP, 1>(plan, n, b)
             : plan.states == 2 ? advance_chunk<Rule::RMSPROP, 2>(plan, n, b)
                                : advance_chunk<Rule::RMSPROP, 3>(plan, n, b);
    case Rule::ADD:
      return advance_chunk<Rule::ADD, 0>(plan, n, b);
    case Rule::AVERAGE:
      return advance_chunk<Rule::AVERAGE, 0>(plan, n, b);
  }
}

static void read_states(const StepPlan& plan, const Place& here, Buffers& b) {
  for (int k = 0; k < plan.states; k++) {
    const Storage& storage = plan.state[k];
    const void* data = here.slot.state[k];
    if (storage.in_blocks)
      read_blocks(storage, data, here.slot.scale[k], here, b.state[k]);
    else
      read(storage.memory, data, here.at, here.n, b.state[k]);
  }
}

static void write_states(const StepPlan& plan, const Place& here, Buffers& b) {
  for (int k = 0; k < plan.states; k++) {
    const Storage& storage = plan.state[k];
    const uint32_t place = STATE_PLACE + static_cast<uint32_t>(k);
    void* data = here.slot.state[k];
    if (storage.in_blocks) {
      write_blocks(storage, data, here.slot.scale[k], here, place, b.state[k], b.scaled);
      continue;
    }
    round_chunk(storage.plan, storage.exact, here, place, b.state[k]);
    write(storage.memory, data, here.at, here.n, b.state[k]);
  }
}

// Write-backs. The update is in b.g.

static void read_carry(const StepPlan& plan, const Place& here, Buffers& b) {
  read(plan.carry.memory, here.slot.carry, here.at, here.n, b.carry);
  if (plan.carry.ulp_bits == 0) return;
  each_vector(here.n, [&](int i) ALWAYS {
    const i32 unit = unit_exponent(load<f32>(b.p + i), plan.ulp, plan.carry.ulp_bits);
    store(b.carry + i, load<f32>(b.carry + i) * power_of_two_of(unit));
  });
}

// The carry from b.carry, beside the new parameter in b.total, which may turn over.
static INLINE void write_carry(const StepPlan& plan, const Place& here, Buffers& b) {
  const int ulp_bits = plan.carry.ulp_bits;
  if (ulp_bits != 0) {
    each_vector(here.n, [&](int i) ALWAYS {
      const f32 rest = load<f32>(b.carry + i);
      const i32 unit = unit_exponent(load<f32>(b.total + i), plan.ulp, ulp_bits);
      store(b.carry + i, (rest == rest ? rest : f32{}) * power_of_two_of(-unit));
    });
  }
  round_chunk(plan.carry.plan, plan.carry.exact, here, CARRY_PLACE, b.carry);
  if (ulp_bits != 0) {
    each_vector(here.n, [&](int i) ALWAYS {
      f32 code = load<f32>(b.carry + i), t = load<f32>(b.total + i);
      turn_over(t, code, plan.ulp, ulp_bits);
      if (plan.strategy == WriteBack::LAZY) code = t == load<f32>(b.p + i) ? code : f32{};
      store(b.carry + i, code);
      store(b.total + i, t);
    });
  }
  write(plan.carry.memory, here.slot.carry, here.at, here.n, b.carry);
}

static void round_parameter(const StepPlan& plan, const Place& here, float* x) {
  round_chunk(plan.parameter.plan, plan.parameter.exact, here, PARAMETER_PLACE, x);
}

static void write_parameter(const StepPlan& plan, const Place& here, const float* x) {
  write(plan.parameter.memory, here.slot.p, here.at, here.n, x);
}

static void add_compensated(const StepPlan& plan, const Place& here, Buffers& b) {
  float* y = b.g;
  read_carry(plan, here, b);
  each_vector(here.n, [&](int i) ALWAYS {
    store(y + i, load<f32>(y + i) + load<f32>(b.carry + i));
  });
  if (plan.strict) round_chunk(plan.strict_plan, false, here, CARRY_PLACE, y);
  each_vector(here.n, [&](int i) ALWAYS {
    const f32 total = load<f32>(b.p + i) + load<f32>(y + i);
    store(b.w + i, total);
    store(b.total + i, total);
  });
  round_parameter(plan, here, b.total);
  each_vector(here.n, [&](int i) ALWAYS {
    store(b.carry + i, rest_of(plan.strategy, load<f32>(b.p + i), load<f32>(y + i),
                               load<f32>(b.w + i), load<f32>(b.total + i), plan.min, plan.max));
  });
  write_carry(plan, here, b);
  write_parameter(plan, here, b.total);
}

static void write_back(const StepPlan& plan, const Place& here, Buffers& b) {
  if (plan.strategy == WriteBack::KAHAN || plan.strategy == WriteBack::LAZY)
    return add_compensated(plan, here, b);
  each_vector(here.n, [&](int i) ALWAYS {
    store(b.total + i, load<f32>(b.w + i) + load<f32>(b.g + i));
  });
  if (plan.strategy == WriteBack::MASTER)
    write(plan.carry.memory, here.slot.carry, here.at, here.n, b.total);
  if (plan.strategy == WriteBack::SPLIT) {
    each_vector(here.n, [&](int i) ALWAYS {
      f32 x = load<f32>(b.total + i);
      store(b.carry + i, to_float(split_halves(x)));
      store(b.total + i, x);
    });
    write(plan.carry.memory, here.slot.carry, here.at, here.n, b.carry);
  } else {
    round_parameter(plan, here, b.total);
  }
  write_parameter(plan, here, b.total);
}

// The parameter as its memory has it, in b.p, and as precisely as a rule sees it, in b.w.
static void read_parameter(const StepPlan& plan, const Place& here, Buffers& b) {
  read(plan.parameter.memory, here.slot.p, here.at, here.n, b.p);
  if (plan.strategy == WriteBack::MASTER) {
    read(plan.carry.memory, here.slot.carry, here.at, here.n, b.w);
  } else if (plan.strategy == WriteBack::SPLIT) {
    read(plan.carry.memory, here.slot.carry, here.at, here.n, b.carry);
    each_vector(here.n, [&](int i) ALWAYS {
      store(b.w + i, join_halves(load<f32>(b.p + i), to_integer(load<f32>(b.carry + i))));
    });
  } else {
    __builtin_memcpy(b.w, b.p, sizeof b.w);
  }
}

static void step_by_chunks(const StepPlan& plan, const StepSlot& slot, int64_t begin, int64_t end) {
  char memory[sizeof(Buffers) + BYTES];
  Buffers& b = *reinterpret_cast<Buffers*>((reinterpret_cast<uintptr_t>(memory) + BYTES - 1) & -BYTES);
  const Key& key = plan.parameter.plan.key;
  for (int64_t at = begin; at < end; at += CHUNK) {
    const Place here{slot, key, at, static_cast<int>(end - at < CHUNK ? end - at : CHUNK)};
    read(plan.grad, slot.grad, at, here.n, b.g);
    read_parameter(plan, here, b);
    read_states(plan, here, b);
    advance_chunk(plan, here.n, b);
    write_states(plan, here, b);
    write_back(plan, here, b);
  }
}

}  // namespace LIMPREC_LEVEL
}  // namespace limprec
