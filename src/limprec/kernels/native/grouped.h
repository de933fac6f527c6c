// Formats with a scale for each channel or block, in row-major memory: which pieces are groups, and
// how threads share them.
#pragma once

#include <algorithm>

#include "memory.h"

namespace limprec {

// A row-major tensor about one axis: `outer` times `length` times `inner` elements.
struct Axis {
  int64_t outer, length, inner;
};

class Grouped {
 public:
  Grouped(const Level& level, const Plan& plan, const char* x, char* y, uint64_t index)
      : level_(level), plan_(plan), x_(x), y_(y), index_(index) {}

  void round(const Axis& axis) const {
    const auto [outer, length, inner] = axis;
    if (plan_.groups.span == Span::BLOCK) {
      const int64_t block = std::min(plan_.groups.block, length);
      return inner == 1 ? rows(outer, length, block) : columns(axis, block);
    }
    if (length == 1) return whole(0, outer * inner);
    if (outer == 1) return rows(1, length * inner, inner);
    if (inner == 1) return columns({1, outer, length}, outer);
    channels(axis);
  }

 private:
  static constexpr int64_t WORK = 4 * TILE;  // elements that are worth another thread
  static constexpr int64_t LONG = 64 * TILE;  // elements that several threads share

  template <class T>
  T* at(T* p, int64_t element) const {
    return p + element * size_of(plan_.carrier);
  }
  uint64_t index(int64_t element) const { return index_ + static_cast<uint64_t>(element); }
  static int64_t grain(int64_t elements) { return std::max(int64_t{1}, WORK / elements); }

  // One group of n elements.
  void whole(int64_t first, int64_t n) const {
    const Flat memory{level_, plan_.carrier, at(x_, first), at(y_, first), n, index(first)};
    round_whole(plan_, memory, nullptr);
  }

  // `count` rows of `length` elements, cut into blocks.
  void rows(int64_t count, int64_t length, int64_t block) const {
    const int64_t blocks = count * ((length + block - 1) / block);
    if (block > LONG && length % block == 0) {
      for (int64_t k = 0; k < blocks; k++) whole(k * block, block);
      return;
    }
    const Rows all{length, block, index_};
    in_parallel(blocks, grain(block), [&](int64_t first, int64_t last) {
      level_.scaled.blocks(plan_, all, x_, y_, first, last);
    });
  }

  // Blocks along an axis that is not the last: each column of a block is a group.
  void columns(const Axis& axis, int64_t block) const {
    const auto [outer, length, inner] = axis;
    const int64_t blocks = (length + block - 1) / block, width = COLUMNS_AT_ONCE;
    const int64_t pieces = (inner + width - 1) / width;
    const auto task = [&, length = length, inner = inner](int64_t number) {
      const int64_t column = number % pieces * width, row = number / pieces % blocks * block;
      const int64_t first = (number / pieces / blocks * length + row) * inner + column;
      level_.scaled.columns(plan_, at(x_, first), at(y_, first), std::min(block, length - row),
                            inner, std::min(width, inner - column), index(first));
    };
    in_parallel(outer * blocks * pieces, grain(block * width), [&](int64_t first, int64_t last) {
      for (int64_t number = first; number < last; number++) task(number);
    });
  }

  // A channel is `outer` runs of `inner` elements.
  void channels(const Axis& axis) const {
    const auto [outer, length, inner] = axis;
    const auto task = [&, outer = outer, length = length, inner = inner](int64_t channel) {
      Extremes found = NOTHING;
      for (int64_t o = 0; o < outer; o++)
        level_.scaled.extremes(plan_, at(x_, (o * length + channel) * inner), inner, found);
      for (int64_t o = 0; o < outer; o++) {
        const int64_t first = (o * length + channel) * inner;
        level_.scaled.run(plan_, found, at(x_, first), at(y_, first), inner, index(first));
      }
    };
    in_parallel(length, grain(outer * inner), [&](int64_t first, int64_t last) {
      for (int64_t channel = first; channel < last; channel++) task(channel);
    });
  }

  const Level& level_;
  const Plan& plan_;
  const char* x_;
  char* y_;
  uint64_t index_;
};

}  // namespace limprec
