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

  // The words of the next SETS * WORDS elements, two vectors a set. Several sets at a time hide
  // the latency of each other. The caller starts anew at multiples of PERIOD.
  template <int SETS = 1>
  INLINE void next(u32* words) {
    const u64 m0 = splat(uint64_t{0xD2511F53u}), m1 = splat(uint64_t{0xCD9E8D57u});
    const u64 low = splat(uint64_t{0xffffffffu});
    u64 x0[SETS], x1[SETS], x2[SETS], x3[SETS];
    for (int s = 0; s < SETS; s++, counter_ += static_cast<uint64_t>(COUNTERS))
      x0[s] = counter_, x1[s] = upper_, x2[s] = step_, x3[s] = stream_;
#pragma GCC unroll 7
    for (int r = 0; r < ROUNDS; r++) {
#pragma GCC unroll 4
      for (int s = 0; s < SETS; s++) {
        const u64 a = widening_product(x0[s], m0), b = widening_product(x2[s], m1);
        x0[s] = (b >> 32) ^ x1[s] ^ key0_[r];
        x1[s] = b;
        x2[s] = (a >> 32) ^ x3[s] ^ key1_[r];
        x3[s] = a;
      }
    }
    for (int s = 0; s < SETS; s++) {
      const u64 first = (x0[s] & low) | (x1[s] << 32), second = (x2[s] & low) | (x3[s] << 32);
      words[2 * s] = (u32)even_pairs(first, second);
      words[2 * s + 1] = (u32)odd_pairs(first, second);
    }
  }

 private:
  static constexpr int ROUNDS = 7;
  u64 counter_{}, upper_, step_, stream_, key0_[ROUNDS], key1_[ROUNDS];
};

}  // namespace limprec::LIMPREC_LEVEL
