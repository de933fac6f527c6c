// Philox4x32 with 7 rounds (Salmon et al., SC 2011), the generator of kernels/random.py, many
// counters at a time.
//
// Each 64-bit lane carries one 32-bit word in its low half. The multiply reads low halves alone, so
// whatever the shifts and exclusive-ors leave in the high halves needs no masking: a round is two
// multiplies, two shifts and two three-way exclusive-ors.
#pragma once

#include "lanes.h"
#include "plan.h"

namespace limprec::LIMPREC_LEVEL {

constexpr int COUNTERS = LANES / 2;      // one to each 64-bit lane; four words make WORDS
constexpr uint64_t PERIOD = 1ull << 34;  // elements that share the upper half of the counter

class Philox {
 public:
  // index: the global index of the next element, a multiple of WORDS.
  Philox(const Key& key, uint64_t index) : upper_(splat(index >> 34)) {
    step_ = splat(uint64_t{key.step});
    stream_ = splat(uint64_t{key.stream});
    uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
    for (int r = 0; r < ROUNDS; r++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      key0_[r] = splat(static_cast<uint64_t>(k0));
      key1_[r] = splat(static_cast<uint64_t>(k1));
    }
    // Lane order such that even_pairs of the results is the first vector, odd_pairs the second.
    for (int lane = 0; lane < COUNTERS; lane++)
      counter_[lane] = index / 4 + static_cast<uint64_t>(lane / 2 + lane % 2 * (COUNTERS / 2));
  }

  // The words of the next WORDS elements. The caller starts anew at multiples of PERIOD.
  INLINE __attribute__((always_inline)) void next(u32 words[2]) {
    const u64 m0 = splat(uint64_t{0xD2511F53u}), m1 = splat(uint64_t{0xCD9E8D57u});
    u64 x0 = counter_, x1 = upper_, x2 = step_, x3 = stream_;
#pragma GCC unroll 7
    for (int r = 0; r < ROUNDS; r++) {
      const u64 a = widening_product(x0, m0), b = widening_product(x2, m1);
      x0 = (b >> 32) ^ x1 ^ key0_[r];
      x1 = b;
      x2 = (a >> 32) ^ x3 ^ key1_[r];
      x3 = a;
    }
    const u64 low = splat(uint64_t{0xffffffffu});
    const u64 first = (x0 & low) | (x1 << 32), second = (x2 & low) | (x3 << 32);
    words[0] = (u32)even_pairs(first, second);
    words[1] = (u32)odd_pairs(first, second);
    counter_ += static_cast<uint64_t>(COUNTERS);
  }

 private:
  static constexpr int ROUNDS = 7;
  u64 counter_{}, upper_, step_, stream_, key0_[ROUNDS], key1_[ROUNDS];
};

}  // namespace limprec::LIMPREC_LEVEL
