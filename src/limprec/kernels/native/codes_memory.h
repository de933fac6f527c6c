// Memory whose elements are rounded straight to codes: as `memory.h` and `gathered.h` have it, the
// target in few bytes.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "codes.h"
#include "gathered.h"

namespace limprec {

// Where rounded values go.
struct Drain {
  const CodeKernels& kernels;
  Counting counting;
  Carrier carrier;
  CodeLoop straight = nullptr;
  std::atomic<bool> nan{false};

  void narrow(const void* values, void* codes, int64_t n) {
    if (kernels.narrow(counting, carrier, values, codes, n)) nan = true;
  }
};

constexpr int64_t PIECE = 1024;  // elements that are rounded before they are made codes
constexpr size_t WIDEST = 4;     // bytes of an element

// As `Flat`, to codes.
struct FlatCodes {
  Flat values;
  Drain& drain;
  char* codes;
  int64_t size;

  static constexpr int64_t GRAIN = Flat::GRAIN;
  int64_t count() const { return values.count(); }
  void extremes(const Plan& plan, int64_t first, int64_t last, Extremes& found) const {
    values.extremes(plan, first, last, found);
  }
  void round(const Plan& plan, const Extremes* found, int64_t first, int64_t last) const {
    const int64_t begin = values.begin(first), n = values.end(last) - begin;
    round(plan, found, values.x + begin * size_of(values.carrier), begin, n);
  }
  // Rounds n elements, which lie at x, to the codes from `begin` on.
  void round(const Plan& plan, const Extremes* found, const char* x, int64_t begin,
             int64_t n) const {
    uint64_t index = values.offset + static_cast<uint64_t>(begin);
    char* to = codes + begin * size;
    if (drain.straight != nullptr) {
      if (drain.straight(plan, drain.counting, x, to, n, index)) drain.nan = true;
      return;
    }
    alignas(64) char buffer[PIECE * WIDEST];
    for (int64_t some; n > 0; n -= some, x += some * size_of(values.carrier), to += some * size) {
      // Tiles begin at multiples of PIECE, but for the first.
      some = std::min(n, PIECE - static_cast<int64_t>(index % PIECE));
      round_run(values.level, plan, found, x, buffer, some, index);
      drain.narrow(buffer, to, some);
      index += static_cast<uint64_t>(some);
    }
  }
};

// As `Strided`, to codes of the size of U.
template <class T, class U>
struct StridedCodes {
  Strided<T> values;
  Drain& drain;
  U* codes;

  static constexpr int64_t GRAIN = Strided<T>::GRAIN;
  int64_t count() const { return values.count(); }
  void extremes(const Plan& plan, int64_t first, int64_t last, Extremes& found) const {
    values.extremes(plan, first, last, found);
  }
  void round(const Plan& plan, const Extremes* found, int64_t first, int64_t last) const {
    const int64_t stride = values.runs.inner().to;
    values.runs.each(first, last, [&](int64_t length, int64_t from, int64_t to, int64_t index) {
      T buffer[Runs::LENGTH];
      U narrow[Runs::LENGTH];
      values.gather(buffer, length, from);
      const uint64_t global = values.offset + static_cast<uint64_t>(index);
      round_run(values.level, plan, found, buffer, buffer, length, global);
      drain.narrow(buffer, narrow, length);
      for (int64_t i = 0; i < length; i++) codes[to + i * stride] = narrow[i];
    });
  }
};

// As `Gathered`, to codes.
template <class T>
struct GatheredCodes {
  Gathered<T> values;
  FlatCodes target;

  static constexpr int64_t GRAIN = Flat::GRAIN;
  int64_t count() const { return values.count(); }
  void extremes(const Plan& plan, int64_t first, int64_t last, Extremes& found) const {
    values.extremes(plan, first, last, found);
  }
  void round(const Plan& plan, const Extremes* found, int64_t first, int64_t last) const {
    values.each(first, last, [&](const T* x, int64_t begin, int64_t n) {
      target.round(plan, found, reinterpret_cast<const char*>(x), begin, n);
    });
  }
};

// Codes that lie in rows of wider ones, as a part of a matrix does; their places in the whole are
// their indices. The source is dense.
struct PlacedCodes {
  FlatCodes whole;
  Dims dims;
  bool indexed;  // whether an element's place decides how it is rounded

  static constexpr int64_t GRAIN = Flat::GRAIN;
  int64_t count() const { return (whole.values.n + TILE - 1) / TILE; }
  void round(const Plan& plan, const Extremes* found, int64_t first, int64_t last) const {
    alignas(64) char buffer[TILE * WIDEST];
    FlatCodes some = whole;
    some.codes = buffer;
    for (int64_t tile = first; tile < last; tile++) {
      const int64_t begin = tile * TILE, n = std::min(TILE, whole.values.n - begin);
      const int64_t bytes = size_of(whole.values.carrier);
      const char* x = whole.values.x + begin * bytes;
      if (!indexed) some.round(plan, found, x, 0, n);
      each_run(dims, &Dim::to, begin, n, [&](int64_t at, int64_t to, int64_t length) {
        if (indexed) return whole.round(plan, found, x + at * bytes, to, length);
        std::memcpy(whole.codes + to * whole.size, buffer + at * whole.size,
                    static_cast<size_t>(length * whole.size));
      });
    }
  }
};

}  // namespace limprec
