// Philox4x32 with 7 rounds (Salmon et al., SC 2011), the generator of kernels/random.py, many
// counters at a time.
//
// Each 64-bit lane carries one 32-bit word in its low half. The multiply reads low halves alone, so
// whatever the shifts and exclusive-ors leave in the high halves needs no masking: a round is two
// multiplies, two shifts and two three-way exclusive-ors.
//
// An element takes a word, or half a word where 16 random bits are enough: then a block serves eight
// elements, and half as many blocks do.
#pragma once

#include "lanes.h"
#include "plan.h"

namespace limprec::LIMPREC_LEVEL {

constexpr int COUNTERS = LANES / 2;  // one to each 64-bit lane

// Whether a rounding takes random words, and how much of one an element takes.
enum class Random { NONE, WORDS, HALVES };

template <Random TAKEN>
class Philox {
 public:
  static constexpr int A_BLOCK = TAKEN == Random::HALVES ? 8 : 4;  // elements that it serves
  static constexpr int A_SET = COUNTERS * A_BLOCK / LANES;         // vectors of words that it gives
  static constexpr uint64_t PERIOD = A_BLOCK * (uint64_t{1} << 32);  // elements that share the upper
                                                                     // half of the counter

  // index: the global index of the next element, a multiple of A_SET * LANES. mask: which bits of a
  // word are random; the others are 0. Halves are upper ones.
  Philox(const Key& key, uint64_t index, uint32_t mask)
      : mask_(splat(mask)) {
    uint32_t k0 = static_cast<uint32_t>(key.seed), k1 = static_cast<uint32_t>(key.seed >> 32);
    for (int r = 0; r < ROUNDS; r++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
      key0_[r] = splat(static_cast<uint64_t>(k0));
      key1_[r] = splat(static_cast<uint64_t>(k1));
    }
    const uint64_t b = uint64_t{key.step} * 0xCD9E8D57u;  // of the first round
    const u64 x0 = splat(b >> 32) ^ splat(index / PERIOD) ^ key0_[0];
    const u64 a = widening_product(x0, splat(uint64_t{0xD2511F53u}));  // of the second
    first_ = splat(uint64_t{key.stream}) ^ key1_[0];
    second0_ = splat(b) ^ key0_[1];
    second2_ = (a >> 32) ^ key1_[1];
    second3_ = a;
    // Lane order such that even_pairs of the results is the first vector, odd_pairs the second.
    for (int lane = 0; lane < COUNTERS; lane++)
      counter_[lane] = index / A_BLOCK + static_cast<uint64_t>(lane / 2 + lane % 2 * (COUNTERS / 2));
  }

  // The words of the next elements, one each: A_SET vectors for each of the SETS. Several sets at a
  // time hide the latency of each other. The caller starts anew at multiples of PERIOD.
  template <int SETS = 1>
  INLINE void next(u32* words) {
    u32 raw[2 * SETS];
    next_raw<SETS>(raw);
    for (int i = 0; i < 2 * SETS; i++) {
      if constexpr (TAKEN == Random::HALVES) {
        words[2 * i] = lower_halves(raw[i]) & mask_;
        words[2 * i + 1] = upper_halves(raw[i]) & mask_;
      } else {
        words[i] = raw[i] & mask_;
      }
    }
  }

  // The words of the generator as they come, two vectors for each of the SETS: where elements take
  // halves, a word serves two neighbours. Nothing is masked.
  template <int SETS = 1>
  INLINE void next_raw(u32* raw) {
    const u64 m0 = splat(uint64_t{0xD2511F53u}), m1 = splat(uint64_t{0xCD9E8D57u});
    u64 x0[SETS], x1[SETS], x2[SETS], x3[SETS];
    for (int s = 0; s < SETS; s++, counter_ += static_cast<uint64_t>(COUNTERS)) {
      const u64 a = widening_product(counter_, m0), x = (a >> 32) ^ first_;
      const u64 b = widening_product(x, m1);
      x0[s] = (b >> 32) ^ second0_, x1[s] = b, x2[s] = a ^ second2_, x3[s] = second3_;
    }
#pragma GCC unroll 7
    for (int r = 2; r < ROUNDS; r++) {
#pragma GCC unroll 4
      for (int s = 0; s < SETS; s++) {
        const u64 a = widening_product(x0[s], m0), b = widening_product(x2[s], m1);
        if (r + 1 < ROUNDS) {
          x0[s] = (b >> 32) ^ x1[s] ^ key0_[r];
          x1[s] = b;
          x2[s] = (a >> 32) ^ x3[s] ^ key1_[r];
          x3[s] = a;
        } else {
          x0[s] = xor_low(exchanged(b), x1[s], key0_[r]);
          x2[s] = xor_low(exchanged(a), x3[s], key1_[r]);
        }
      }
    }
    for (int s = 0; s < SETS; s++) {
      raw[2 * s] = (u32)even_pairs(x0[s], x2[s]);
      raw[2 * s + 1] = (u32)odd_pairs(x0[s], x2[s]);
    }
  }

 private:
  static constexpr int ROUNDS = 7;
  loose32 mask_;
  // What the first two rounds need: all but the lower half of the counter is the same for long.
  loose64 counter_{}, first_, second0_, second2_, second3_;
  loose64 key0_[ROUNDS], key1_[ROUNDS];
};

}  // namespace limprec::LIMPREC_LEVEL
