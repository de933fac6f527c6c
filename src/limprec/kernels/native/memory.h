// The memory of a tensor in tiles that threads share.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include "plan.h"
#include "strided.h"

namespace limprec {

constexpr int64_t TILE = 4096;  // elements

// The kernels of one instruction set.
struct Level {
  const Kernels& plain;
  const ScaledKernels& scaled;
};

inline int64_t size_of(Carrier carrier) {
  return carrier == Carrier::FLOAT64 ? 8 : carrier == Carrier::FLOAT32 ? 4 : 2;
}

inline void round_run(const Level& level, const Plan& plan, const Extremes* found, const void* x,
                      void* y, int64_t n, uint64_t index) {
  if (found == nullptr) return level.plain.round(plan, x, y, n, index);
  level.scaled.run(plan, *found, x, y, n, index);
}

// Flat memory. Work comes in tiles whose global index begins at a multiple of TILE.
struct Flat {
  const Level& level;
  Carrier carrier;
  const char* x;
  char* y;
  int64_t n;
  uint64_t offset;

  static constexpr int64_t GRAIN = 4;  // fewer tiles are not worth another thread
  int64_t lead() const { return static_cast<int64_t>(offset % TILE); }
  int64_t count() const { return (lead() + n + TILE - 1) / TILE; }
  int64_t begin(int64_t tile) const { return std::max(int64_t{0}, tile * TILE - lead()); }
  int64_t end(int64_t tile) const { return std::min(n, tile * TILE - lead()); }

  void extremes(const Plan& plan, int64_t first, int64_t last, Extremes& found) const {
    const int64_t at = begin(first);
    level.scaled.extremes(plan, x + at * size_of(carrier), end(last) - at, found);
  }
  void round(const Plan& plan, const Extremes* found, int64_t first, int64_t last) const {
    const int64_t at = begin(first), bytes = at * size_of(carrier), length = end(last) - at;
    round_run(level, plan, found, x + bytes, y + bytes, length, offset + static_cast<uint64_t>(at));
  }
};

// Any other layout, through a buffer. T has the size of an element.
template <class T>
struct Strided {
  const Level& level;
  Carrier carrier;
  const T* x;
  T* y;
  Runs runs;
  uint64_t offset;

  static constexpr int64_t GRAIN = 4 * TILE / Runs::LENGTH;
  int64_t count() const { return runs.count(); }

  void gather(T* buffer, int64_t length, int64_t from) const {
    const int64_t stride = runs.inner().from;
    for (int64_t i = 0; i < length; i++) buffer[i] = x[from + i * stride];
  }
  void extremes(const Plan& plan, int64_t first, int64_t last, Extremes& found) const {
    runs.each(first, last, [&](int64_t length, int64_t from, int64_t, int64_t) {
      T buffer[Runs::LENGTH];
      gather(buffer, length, from);
      level.scaled.extremes(plan, buffer, length, found);
    });
  }
  void round(const Plan& plan, const Extremes* found, int64_t first, int64_t last) const {
    const int64_t stride = runs.inner().to;
    runs.each(first, last, [&](int64_t length, int64_t from, int64_t to, int64_t index) {
      T buffer[Runs::LENGTH];
      gather(buffer, length, from);
      const uint64_t global = offset + static_cast<uint64_t>(index);
      round_run(level, plan, found, buffer, buffer, length, global);
      for (int64_t i = 0; i < length; i++) y[to + i * stride] = buffer[i];
    });
  }
};

template <class Work>
void in_parallel(int64_t count, int64_t grain, const Work& work) {
  if (count <= grain) return work(int64_t{0}, count);
  torch::stable::parallel_for(0, count, grain, work);
}

inline void merge(Extremes& all, const Extremes& some) {
  all.magnitude = std::max(all.magnitude, some.magnitude);
  all.low = std::min(all.low, some.low);
  all.high = std::max(all.high, some.high);
}

template <class Memory>
Extremes extremes_of(const Plan& plan, const Memory& memory) {
  Extremes all = NOTHING;
  std::mutex mutex;
  in_parallel(memory.count(), Memory::GRAIN, [&](int64_t first, int64_t last) {
    Extremes mine = NOTHING;
    memory.extremes(plan, first, last, mine);
    const std::lock_guard<std::mutex> lock(mutex);
    merge(all, mine);
  });
  return all;
}

// `found`: the extremes of the one group that all of the memory is; none without scales.
template <class Memory>
void round_all(const Plan& plan, const Memory& memory, const Extremes* found) {
  in_parallel(memory.count(), Memory::GRAIN, [&](int64_t first, int64_t last) {
    // A scaled format reads twice: backwards, the second pass meets what the first left in cache.
    const int64_t step = found != nullptr ? 4 * Memory::GRAIN : last - first;
    for (int64_t stop = last; stop > first; stop -= step)
      memory.round(plan, found, std::max(first, stop - step), stop);
  });
}

// The largest magnitude that the bit pattern of Extremes stands for.
inline double largest(const Plan& plan, const Extremes& found) {
  const uint32_t narrow = static_cast<uint32_t>(found.magnitude);
  float single;
  double wide;
  std::memcpy(&single, &narrow, sizeof single);
  std::memcpy(&wide, &found.magnitude, sizeof wide);
  return plan.narrow ? single : wide;
}

// The whole memory is one group, or has no scale at all.
template <class Memory>
void round_whole(const Plan& plan, const Memory& memory, const Extremes* given) {
  if (given != nullptr || plan.kind == Kind::FLOATING || plan.kind == Kind::FIXED)
    return round_all(plan, memory, given);
  const Extremes found = extremes_of(plan, memory);
  round_all(plan, memory, &found);
}

}  // namespace limprec
