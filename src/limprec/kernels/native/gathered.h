// Memory whose target is dense, but whose source is straight runs with gaps, as a part of a wider
// tensor is: tiles of the target, for which many runs are gathered and rounded at once.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <cstring>

#include "memory.h"
#include "strided.h"

namespace limprec {

// With any_order an element may have another index than its row-major one.
inline bool is_gathered(const Dims& dims, bool any_order) {
  int64_t inside = 1;
  for (size_t i = dims.size(); i-- > 0; inside *= dims[i].size)
    if (dims[i].to != inside || (dims[i].index != inside && !any_order)) return false;
  return dims.back().from == 1 && dims.back().size >= 16;
}

// The elements of the source in the order of the target.
template <class T>
struct Gathering {
  const T* x;
  const Dims& dims;

  void operator()(T* buffer, int64_t begin, int64_t n) const {
    each_run(dims, &Dim::from, begin, n, [&](int64_t at, int64_t from, int64_t length) {
      std::memcpy(buffer + at, x + from, static_cast<size_t>(length) * sizeof(T));
    });
  }
};

// T has the size of an element.
template <class T>
struct Gathered {
  Flat flat;  // the target, tile by tile; its source is nothing
  Gathering<T> gather;

  static constexpr int64_t GRAIN = Flat::GRAIN;
  int64_t count() const { return flat.count(); }

  // Calls work(values, begin, n) for each tile.
  template <class Work>
  void each(int64_t first, int64_t last, const Work& work) const {
    alignas(64) T buffer[TILE];
    for (int64_t tile = first; tile < last; tile++) {
      const int64_t begin = flat.begin(tile), n = flat.end(tile + 1) - begin;
      gather(buffer, begin, n);
      work(static_cast<const T*>(buffer), begin, n);
    }
  }
  void extremes(const Plan& plan, int64_t first, int64_t last, Extremes& found) const {
    each(first, last, [&](const T* values, int64_t, int64_t n) {
      flat.level.scaled.extremes(plan, values, n, found);
    });
  }
  void round(const Plan& plan, const Extremes* found, int64_t first, int64_t last) const {
    each(first, last, [&](const T* values, int64_t begin, int64_t n) {
      char* to = flat.y + begin * static_cast<int64_t>(sizeof(T));
      round_run(flat.level, plan, found, values, to, n, flat.offset + static_cast<uint64_t>(begin));
    });
  }
};

}  // namespace limprec
