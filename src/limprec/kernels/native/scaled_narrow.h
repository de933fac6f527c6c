// The loops over formats with shared scales in float32 arithmetic. What a group's scale makes
// impossible there is left to scaled_wide.h.
#pragma once

#include "scaled_wide.h"
#include "scales.h"
#include "stretches.h"

namespace limprec::LIMPREC_LEVEL {

// Extremes of some groups side by side, and the facts that follow.
template <class Rule>
struct Groups32 {
  static constexpr int MOST = STRETCH + LANES;
  uint32_t tops[MOST];
  float lows[MOST], highs[MOST], facts[Rule::FACTS][MOST];

  // Takes in the numbers of group k, which may have taken some in before.
  INLINE void take(int64_t k, const float* x, int64_t n) {
    i32 most{};
    f32 low = splat(lows[k]), high = splat(highs[k]);
    const auto vector = [&](f32 v) ALWAYS {
      const i32 magnitude = (i32)(bits(v) & 0x7fffffffu);
      most = magnitude > most ? magnitude : most;
      if constexpr (Rule::RANGE) {
        low = v < low ? v : low;
        high = v > high ? v : high;
      }
    };
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) vector(load<f32>(x + i));
    if (i < n) {  // a group may be seen twice
      float memory[LANES];
      float* rest = unaligned(memory);
      for (int j = 0; j < LANES; j++) rest[j] = x[i + j < n ? i + j : i];
      vector(load<f32>(rest));
    }
    const uint32_t top = static_cast<uint32_t>(greatest(most));
    tops[k] = top > tops[k] ? top : tops[k];
    if constexpr (Rule::RANGE) lows[k] = least(low), highs[k] = greatest(high);
  }

  // Takes in one element each of the groups from k on, a vector of them.
  INLINE void take_each(int64_t k, f32 v) {
    const i32 magnitude = (i32)(bits(v) & 0x7fffffffu), before = load<i32>(tops + k);
    store(tops + k, magnitude > before ? magnitude : before);
    if constexpr (Rule::RANGE) {
      const f32 low = load<f32>(lows + k), high = load<f32>(highs + k);
      store(lows + k, v < low ? v : low);
      store(highs + k, v > high ? v : high);
    }
  }

  INLINE void start(int64_t count) {
    for (int64_t k = 0; k < count; k += LANES) {
      store(tops + k, u32{});
      store(lows + k, splat(NOTHING.low));
      store(highs + k, splat(NOTHING.high));
    }
  }

  // Whether float32 arithmetic serves all of the groups.
  INLINE bool scale(const Rule& rule, int64_t count) {
    i32 left_out{};
    for (int64_t k = 0; k < count; k += LANES) {
      f32 found[Rule::FACTS];
      left_out |= rule.scale({load<u32>(tops + k), load<f32>(lows + k), load<f32>(highs + k)}, found);
      for (int j = 0; j < Rule::FACTS; j++) store(facts[j] + k, found[j]);
    }
    return greatest((i32)((u32)left_out >> 1)) == 0;
  }
};

template <Random TAKEN>
static INLINE u32 word_at(const uint32_t* words, int64_t i) {
  if constexpr (TAKEN == Random::NONE) return u32{};
  return load<u32>(words + i);
}

// Rounds whole vectors under one scale.
template <Random TAKEN, class Rule>
static INLINE void round_under(const Rule& rule, const f32* facts, const float* in, float* out,
                               int64_t n, const uint32_t* words) {
#pragma GCC unroll 4
  for (int64_t i = 0; i < n; i += LANES)
    store(out + i, rule(load<f32>(in + i), word_at<TAKEN>(words, i), facts));
}

// Rounds whole vectors, each element with facts of its own.
template <Random TAKEN, class Rule, int MOST>
static INLINE void round_each(const Rule& rule, const float (&facts)[Rule::FACTS][MOST],
                              const float* in, float* out, int64_t n, const uint32_t* words) {
  for (int64_t i = 0; i < n; i += LANES) {
    f32 own[Rule::FACTS];
    for (int j = 0; j < Rule::FACTS; j++) own[j] = load<f32>(facts[j] + i);
    store(out + i, rule(load<f32>(in + i), word_at<TAKEN>(words, i), own));
  }
}

template <Random TAKEN, class Rule>
static void run_of(const Plan& plan, const Extremes& found, const void* x, void* y, int64_t n,
                   uint64_t index) {
  const Rule rule(plan);
  f32 facts[Rule::FACTS];
  const Group group{splat(static_cast<uint32_t>(found.magnitude)), splat(found.low), splat(found.high)};
  const i32 left_out = rule.scale(group, facts);
  if (left_out[0] != 0) return wide_run(plan, found, x, y, n, index);
  Words<TAKEN> words(plan, index);
  float memory[STRETCH];
  float* buffer = unaligned(memory);
  for (int64_t i = 0; i < n; i += STRETCH) {
    const int64_t count = n - i < STRETCH ? n - i : STRETCH;
    const Stretch stretch(plan, at(plan, x, i), at(plan, y, i), count, buffer);
    round_under<TAKEN>(rule, facts, stretch.in, stretch.out, count, words.next(count));
    stretch.finish(plan, at(plan, y, i), count);
  }
}

// Some blocks that follow each other, of STRETCH elements at most in all.
struct Cut {
  int64_t at, total = 0;
  int count = 0;
  bool even = true;  // whether all blocks have the full length
  int16_t ends[STRETCH];

  INLINE Cut(const Rows& rows, int64_t first, int64_t last) {
    const int64_t per_row = (rows.length + rows.block - 1) / rows.block;
    int64_t in_row = first % per_row;
    at = first / per_row * rows.length + in_row * rows.block;
    for (; first + count < last; count++) {
      const int64_t left = rows.length - in_row * rows.block;
      const int64_t size = left < rows.block ? left : rows.block;
      if (total + size > STRETCH) break;
      total += size, ends[count] = static_cast<int16_t>(total);
      even = even && size == rows.block;
      in_row = in_row + 1 == per_row ? 0 : in_row + 1;
    }
  }
};

template <Random TAKEN, class Rule>
static void blocks_of(const Plan& plan, const Rows& rows, const void* x, void* y, int64_t first,
                      int64_t last) {
  using Known = Groups32<Rule>;
  const Rule rule(plan);
  Known memory, *groups = unaligned(&memory);
  float numbers[STRETCH], spread_memory[Rule::FACTS][Known::MOST];
  float* buffer = unaligned(numbers);
  auto& spread = *unaligned(&spread_memory);
  Words<TAKEN> words(plan, rows.index + static_cast<uint64_t>(Cut(rows, first, first).at));
  while (first < last) {
    const Cut cut(rows, first, last);
    const void* from = at(plan, x, cut.at);
    void* to = at(plan, y, cut.at);
    const Stretch stretch(plan, from, to, cut.total, buffer);
    const uint32_t* word = words.next(cut.total);
    groups->start(cut.count);
    for (int64_t k = 0, begin = 0; k < cut.count; begin = cut.ends[k++])
      groups->take(k, stretch.in + begin, cut.ends[k] - begin);
    if (!groups->scale(rule, cut.count)) {
      wide_blocks(plan, rows, x, y, first, first + cut.count);
      first += cut.count;
      continue;
    }
    first += cut.count;
    if (cut.even && rows.block % LANES == 0) {
      for (int64_t k = 0, i = 0; k < cut.count; k++, i += rows.block) {
        f32 facts[Rule::FACTS];
        for (int j = 0; j < Rule::FACTS; j++) facts[j] = splat(groups->facts[j][k]);
        round_under<TAKEN>(rule, facts, stretch.in + i, stretch.out + i, rows.block,
                           TAKEN == Random::NONE ? word : word + i);
      }
    } else {
      for (int j = 0; j < Rule::FACTS; j++)
        for (int64_t k = 0, i = 0; k < cut.count; k++)
          for (; i < cut.ends[k]; i++) spread[j][i] = groups->facts[j][k];
      round_each<TAKEN>(rule, spread, stretch.in, stretch.out, cut.total, word);
    }
    stretch.finish(plan, to, cut.total);
  }
}

template <Random TAKEN, class Rule>
static void columns_of(const Plan& plan, const void* x, void* y, int64_t count, int64_t stride,
                       int64_t n, uint64_t index) {
  const Rule rule(plan);
  Groups32<Rule> memory, *groups = unaligned(&memory);
  float numbers[STRETCH];
  float* buffer = unaligned(numbers);
  groups->start(n);
  for (int64_t r = 0; r < count; r++) {
    const Stretch row(plan, at(plan, x, r * stride), nullptr, n, buffer);
    for (int64_t i = 0; i < n; i += LANES) groups->take_each(i, load<f32>(row.in + i));
  }
  if (!groups->scale(rule, n)) return wide_columns(plan, x, y, count, stride, n, index);
  for (int64_t r = 0; r < count; r++) {
    void* to = at(plan, y, r * stride);
    const Stretch row(plan, at(plan, x, r * stride), to, n, buffer);
    Words<TAKEN> words(plan, index + static_cast<uint64_t>(r * stride));
    round_each<TAKEN>(rule, groups->facts, row.in, row.out, n, words.next(n));
    row.finish(plan, to, n);
  }
}

// What a run of elements adds to the extremes of its group.
template <bool RANGE>
static void extremes_of(const Plan& plan, const void* x, int64_t n, Extremes& found) {
  float memory[STRETCH];
  float* buffer = unaligned(memory);
  i32 most[VECTORS] = {};
  f32 low[VECTORS], high[VECTORS];
  for (int v = 0; v < VECTORS; v++) low[v] = splat(found.low), high[v] = splat(found.high);
  const auto take = [&](const float* in, int64_t length) ALWAYS {
    for (int64_t i = 0; i + GROUP <= length; i += GROUP) {
      fetch_ahead(in + i);
      for (int v = 0; v < VECTORS; v++) {
        const f32 x = load<f32>(in + i + v * LANES);
        const i32 magnitude = (i32)(bits(x) & 0x7fffffffu);
        most[v] = magnitude > most[v] ? magnitude : most[v];
        if constexpr (RANGE) {
          low[v] = x < low[v] ? x : low[v];
          high[v] = x > high[v] ? x : high[v];
        }
      }
    }
  };
  for (int64_t i = 0; i < n; i += STRETCH) {
    const int64_t count = n - i < STRETCH ? n - i : STRETCH, whole = (count + GROUP - 1) / GROUP * GROUP;
    const void* from = at(plan, x, i);
    const bool direct = plan.carrier == Carrier::FLOAT32 && whole == count;
    if (!direct) {
      read(plan.carrier, from, count, buffer);
      for (int64_t j = count; j < whole; j++) buffer[j] = buffer[0];  // seen twice
    }
    take(direct ? static_cast<const float*>(from) : buffer, whole);
  }
  for (int v = 1; v < VECTORS; v++) {
    most[0] = most[v] > most[0] ? most[v] : most[0];
    low[0] = low[v] < low[0] ? low[v] : low[0];
    high[0] = high[v] > high[0] ? high[v] : high[0];
  }
  const uint64_t top = static_cast<uint64_t>(greatest(most[0]));
  found.magnitude = top > found.magnitude ? top : found.magnitude;
  if constexpr (RANGE) found.low = least(low[0]), found.high = greatest(high[0]);
}

}  // namespace limprec::LIMPREC_LEVEL
