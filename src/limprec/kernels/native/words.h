// The random words of one element after another, a stretch of any length at a time.
#pragma once

#include <stddef.h>

#include "carriers.h"
#include "philox.h"

namespace limprec::LIMPREC_LEVEL {

constexpr int VECTORS = 8;              // that are worked on at a time
constexpr int GROUP = VECTORS * LANES;  // and how many elements that is

// Asks for the group that lies a page ahead: hardware stops to fetch at the end of each page.
template <class T>
static INLINE void fetch_ahead(const T* x) {
  const char* from = (const char*)x + 4096;
  for (size_t line = 0; line < sizeof(T) * GROUP; line += 64) __builtin_prefetch(from + line);
}
constexpr int STRETCH = 512;            // elements at most in a stretch

template <Random TAKEN>
class Words {
 public:
  Words(const Plan& plan, uint64_t index)
      : key_(plan.key),
        mask_(plan.mask),
        made_(index - index % GROUP),
        philox_(plan.key, made_, plan.mask),
        words_(unaligned(memory_)) {
    make();
    at_ = static_cast<int64_t>(index % GROUP);
  }

  // The words of the next n elements; a whole vector may be read from each.
  const uint32_t* next(int64_t n) {
    if (end_ - at_ < n) {
      __builtin_memmove(words_, words_ + at_, static_cast<size_t>(end_ - at_) * sizeof *words_);
      end_ -= at_, at_ = 0;
      while (end_ < n) make();
    }
    at_ += n;
    return words_ + at_ - n;
  }

 private:
  using Source = Philox<TAKEN>;

  __attribute__((noinline)) void make() {
    if (made_ % Source::PERIOD == 0) philox_ = Source(key_, made_, mask_);
    u32 group[VECTORS];
    philox_.template next<VECTORS / Source::A_SET>(group);
    for (int i = 0; i < VECTORS; i++) store(words_ + end_ + i * LANES, group[i]);
    made_ += GROUP, end_ += GROUP;
  }

  const Key key_;
  const uint32_t mask_;
  uint64_t made_;  // index of the first word that is not made
  Source philox_;
  int64_t at_ = 0, end_ = 0;
  uint32_t memory_[STRETCH + 2 * GROUP];
  uint32_t* const words_;
};

template <>
class Words<Random::NONE> {
 public:
  Words(const Plan&, uint64_t) {}
  const uint32_t* next(int64_t) { return nullptr; }
};

}  // namespace limprec::LIMPREC_LEVEL
