// Loops over groups of elements, with the random words of each.
#pragma once

#include <stddef.h>

#include "words.h"

namespace limprec::LIMPREC_LEVEL {

// Calls group(in, out) for each GROUP elements whose global index starts at a multiple of GROUP. A
// part of such a group, at either end, goes through buffers, zeros about it. x and y are equal or
// disjoint.
template <class T, class U, class Group>
static INLINE void each_group(const T* x, U* y, int64_t n, uint64_t index, Group&& group) {
  int64_t skip = static_cast<int64_t>(index % GROUP);
  while (n > 0) {
    const bool whole = skip == 0 && n >= GROUP;
    const int64_t count = whole || n > GROUP - skip ? GROUP - skip : n;
    T in_memory[GROUP];
    U out_memory[GROUP];
    T* in = unaligned(in_memory);
    U* out = unaligned(out_memory);
    if (!whole) {
      __builtin_memset(in, 0, sizeof in_memory);
      __builtin_memcpy(in + skip, x, static_cast<size_t>(count) * sizeof(T));
    }
    fetch_ahead(x);
    group(whole ? x : in, whole ? y : out);
    if (!whole) __builtin_memcpy(y, out + skip, static_cast<size_t>(count) * sizeof(U));
    x += count, y += count, n -= count, skip = 0;
  }
}

// The same with the random words of each group: group(in, out, words). Those of the other rounding
// modes are zeros that nobody reads.
template <Random TAKEN, class T, class U, class Group>
static INLINE void each_group_with_words(const Plan& plan, const T* x, U* y, int64_t n,
                                         uint64_t index, Group&& group) {
  if constexpr (TAKEN == Random::NONE) {
    const u32 none[VECTORS] = {};
    each_group(x, y, n, 0, [&](const T* in, U* out) ALWAYS { group(in, out, none); });
    return;
  }
  using Words = Philox<TAKEN>;
  while (n > 0) {
    const uint64_t left = Words::PERIOD - index % Words::PERIOD;
    const int64_t count = static_cast<uint64_t>(n) < left ? n : static_cast<int64_t>(left);
    Words philox(plan.key, index - index % GROUP, plan.mask);
    each_group(x, y, count, index, [&](const T* in, U* out) ALWAYS {
      u32 words[VECTORS];
      philox.template next<VECTORS / Words::A_SET>(words);
      group(in, out, words);
    });
    x += count, y += count, n -= count, index += static_cast<uint64_t>(count);
  }
}

}  // namespace limprec::LIMPREC_LEVEL
