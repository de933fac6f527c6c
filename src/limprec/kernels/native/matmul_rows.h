// Any accumulator, adder and rounding, in float64: one row of the result and COLUMNS of its columns
// at a time. A row of numbers lies in memory; every operation takes and leaves whole rows.
#pragma once

#include "carriers.h"
#include "matmul_double.h"
#include "philox.h"

namespace limprec::LIMPREC_LEVEL {

constexpr int COLUMNS = 32;
constexpr size_t ROW_BYTES = COLUMNS * sizeof(double);
constexpr int LEVELS = 33;  // of a tree over less than 2^32 terms

// A row on the stack.
class Row {
 public:
  Row() : at_(unaligned(memory_)) {}
  Row(const Row&) = delete;
  operator double*() const { return at_; }

 private:
  double memory_[COLUMNS];
  double* const at_;
};

// Streams of random words, as in matmul/reference.py.
constexpr uint32_t SUM = 0, PRODUCT = 1, KAHAN_T = 2, KAHAN_D = 3, KAHAN_C = 4, CHUNK = 8, TREE = 16;

// The random words of one row of elements, for one operation.
static inline void random_row(const MatmulPlan& plan, uint32_t stream, int64_t step, uint64_t index,
                              uint32_t* words) {
  const Key key{plan.seed, stream, static_cast<uint32_t>(step)};
  constexpr int A_SET = Philox<Random::WORDS>::A_SET * LANES;
  uint32_t memory[COLUMNS + A_SET];
  uint32_t* all = unaligned(memory);
  const uint64_t first = index - index % A_SET;
  for (uint64_t at = first; at < index + COLUMNS; at += A_SET) {
    u32 set[A_SET / LANES];
    Philox<Random::WORDS>(key, at, ~0u).next(set);
    __builtin_memcpy(all + (at - first), set, sizeof set);
  }
  __builtin_memcpy(words, all + (index - first), COLUMNS * sizeof(uint32_t));
}

template <class Rule>
struct Rounder {
  const MatmulPlan& plan;
  const Rule rule;
  const uint64_t index;  // of the row's first element

  // out = x + y, rounded once.
  inline void add(double* out, const double* x, const double* y, uint32_t stream,
                  int64_t step) const {
    each(stream, step, [&](int i, u64 word) {
      store(out + i, rule(load<f64>(x + i), load<f64>(y + i), word));
    });
  }
  // out = x - y
  inline void subtract(double* out, const double* x, const double* y, uint32_t stream,
                       int64_t step) const {
    each(stream, step, [&](int i, u64 word) {
      store(out + i, rule(load<f64>(x + i), -load<f64>(y + i), word));
    });
  }
  inline void round(double* x, uint32_t stream, int64_t step) const {
    each(stream, step,
         [&](int i, u64 word) { store(x + i, rule.round(load<f64>(x + i), word)); });
  }

 private:
  template <class Work>
  inline void each(uint32_t stream, int64_t step, Work&& work) const {
    uint32_t memory[COLUMNS];
    uint32_t* words = unaligned(memory);
    if constexpr (Rule::RANDOM) random_row(plan, stream, step, index, words);
#pragma GCC unroll 4
    for (int i = 0; i < COLUMNS; i += DOUBLES) {
      u64 word{};
      if constexpr (Rule::RANDOM)
        for (int lane = 0; lane < DOUBLES; lane++) word[lane] = words[i + lane];
      work(i, word);
    }
  }
};

// The exact or rounded products of one row of a and a panel of b, term by term.
struct Products {
  const MatmulPlan& plan;
  const void* a;
  const double* b;
  const uint64_t index;

  inline void operator()(double* out, int64_t k) const {
    const double factor = plan.float32 ? static_cast<const float*>(a)[k]
                                       : static_cast<const double*>(a)[k];
    for (int i = 0; i < COLUMNS; i += DOUBLES)
      store(out + i, load<f64>(b + k * COLUMNS + i) * factor);
    if (plan.has_product) round(out, k);
  }

 private:
  void round(double* out, int64_t k) const {
    if (plan.product.fixed) return in_mode<FixedSum>(out, k);
    in_mode<FloatingSum>(out, k);
  }
  template <template <Rounding> class Rule>
  void in_mode(double* out, int64_t k) const {
    switch (plan.product.rounding) {
      case Rounding::NEAREST:
        return as<Rule<Rounding::NEAREST>>(out, k);
      case Rounding::NEAREST_AWAY:
        return as<Rule<Rounding::NEAREST_AWAY>>(out, k);
      case Rounding::TOWARD_ZERO:
        return as<Rule<Rounding::TOWARD_ZERO>>(out, k);
      case Rounding::DOWN:
        return as<Rule<Rounding::DOWN>>(out, k);
      case Rounding::UP:
        return as<Rule<Rounding::UP>>(out, k);
      case Rounding::STOCHASTIC:
        return as<Rule<Rounding::STOCHASTIC>>(out, k);
    }
  }
  template <class Rule>
  __attribute__((noinline)) void as(double* out, int64_t k) const {
    Rounder<Rule>{plan, {plan.product}, index}.round(out, PRODUCT, k);
  }
};

// One row of the result.
template <class Rule>
struct Summer {
  const MatmulPlan& plan;
  const Products& product;
  const Rounder<Rule> rounder;
  double* workspace;  // LEVELS + ways rows

  inline void operator()(double* out, int64_t length) const {
    const int64_t size = plan.chunk > 0 ? plan.chunk : length;
    const Row part, carry;
    clear(carry);
    clear(out);
    for (int64_t start = 0, number = 0; start < length; start += size, number++) {
      const int64_t stop = start + size < length ? start + size : length;
      if (plan.chunk == 0) return sum(out, start, stop);
      sum(part, start, stop);
      if (plan.adder == Adder::KAHAN) {
        compensated(out, carry, part, CHUNK, number);
      } else {
        rounder.add(out, out, part, CHUNK + SUM, number);
      }
    }
  }

 private:
  static inline void clear(double* row) { __builtin_memset(row, 0, ROW_BYTES); }

  inline void sum(double* out, int64_t start, int64_t stop) const {
    const Row x, carry;
    clear(carry);
    clear(out);
    switch (plan.adder) {
      case Adder::SEQUENTIAL:
        for (int64_t k = start; k < stop; k++) {
          product(x, k);
          rounder.add(out, out, x, SUM, k);
        }
        return;
      case Adder::KAHAN:
        for (int64_t k = start; k < stop; k++) {
          product(x, k);
          compensated(out, carry, x, 0, k);
        }
        return;
      case Adder::TREE:
        return tree(out, start, stop);
      case Adder::ALIGNED:
        for (int64_t k = start; k < stop; k += plan.ways)
          aligned(out, k, k + plan.ways < stop ? k + plan.ways : stop);
        return;
    }
  }

  inline void compensated(double* s, double* c, const double* x, uint32_t stream,
                          int64_t step) const {
    const Row y, t;
    rounder.subtract(y, x, c, stream + SUM, step);
    rounder.add(t, s, y, stream + KAHAN_T, step);
    rounder.subtract(c, t, s, stream + KAHAN_D, step);
    rounder.subtract(c, c, y, stream + KAHAN_C, step);
    __builtin_memcpy(s, t, ROW_BYTES);
  }

  // Nodes are complete as soon as their leaves are: the nodes of n leaves of each level that still
  // wait for a neighbour lie in the workspace, as the ones of a binary counter.
  void tree(double* out, int64_t start, int64_t stop) const {
    const Row left, zero;
    clear(zero);
    const int64_t length = stop - start, pairs = (length + 1) / 2;
    for (int64_t i = 0; i < pairs; i++) {
      product(left, start + 2 * i);
      clear(out);
      if (2 * i + 1 < length) product(out, start + 2 * i + 1);
      rounder.add(out, left, out, TREE, start + 2 * i);
      int64_t node = i;
      int level = 1;
      for (; node & 1; node >>= 1, level++)
        rounder.add(out, waiting(level), out, TREE + level, start + ((node - 1) << level));
      __builtin_memcpy(waiting(level), out, ROW_BYTES);
    }
    bool tail = false;  // whether out holds the last, incomplete node of the level
    int64_t count = pairs;
    int level = 1;
    for (; count > 1; count = (count + 1) / 2, level++) {
      if (count & 1) {
        rounder.add(out, tail ? out : waiting(level), zero, TREE + level,
                    start + ((count - 1) << level));
        tail = true;
      } else if (tail) {
        rounder.add(out, waiting(level), out, TREE + level, start + ((count - 2) << level));
      }
    }
    if (!tail) __builtin_memcpy(out, waiting(level), ROW_BYTES);
  }

  inline double* waiting(int level) const { return workspace + level * COLUMNS; }

  void aligned(double* out, int64_t start, int64_t stop) const {
    double* terms = workspace + LEVELS * COLUMNS;
    const int64_t count = stop - start;
    for (int64_t i = 0; i < count; i++) product(terms + i * COLUMNS, start + i);
    const DoubleFormat& p = plan.sum;
    const int below = p.mantissa_bits + plan.extra;
    for (int i = 0; i < COLUMNS; i += DOUBLES) {
      const f64 acc = load<f64>(out + i);
      f64 special = acc, largest = finite(magnitude(acc));
      for (int64_t j = 0; j < count; j++) {
        const f64 x = load<f64>(terms + j * COLUMNS + i);
        special += x;
        const f64 a = finite(magnitude(x));
        largest = a > largest ? a : largest;
      }
      i64 field = (i64)(code(largest) >> 52);
      field = field < p.min_exponent + 1023 ? i64{} + (p.min_exponent + 1023) : field;
      const f64 grid = value((u64)(field - below) << 52);
      const f64 per_grid = value((u64)(2046 - (field - below)) << 52);
      f64 total = truncated(finite(acc) * per_grid);
      for (int64_t j = 0; j < count; j++)
        total += truncated(finite(load<f64>(terms + j * COLUMNS + i)) * per_grid);
      total = largest > 0.0 ? total * grid : f64{};
      store(out + i, magnitude(special) < __builtin_inf() ? total : special);
    }
    rounder.round(out, SUM, start);
  }

  static inline f64 finite(f64 x) { return keep_where(magnitude(x) < __builtin_inf(), x); }
};

template <class Rule>
static void multiply_rows(const MatmulPlan& plan, const Block& block) {
  double* panel = reinterpret_cast<double*>(block.workspace);
  double* rest = panel + block.length * COLUMNS;
  for (int64_t k = 0; k < block.length; k++)
    for (int64_t j = 0; j < COLUMNS; j++) {
      const int64_t at = k * block.stride + j;
      panel[k * COLUMNS + j] = j >= block.columns ? 0.0
                               : plan.float32     ? static_cast<const float*>(block.b)[at]
                                                  : static_cast<const double*>(block.b)[at];
    }
  for (int64_t i = 0; i < block.rows; i++) {
    const uint64_t index = block.index + static_cast<uint64_t>(i * block.stride);
    const int64_t at = i * block.length;
    const void* a = plan.float32 ? static_cast<const void*>(static_cast<const float*>(block.a) + at)
                                 : static_cast<const double*>(block.a) + at;
    const Products products{plan, a, panel, index};
    const Row row;
    Summer<Rule>{plan, products, {plan, {plan.sum}, index}, rest}(row, block.length);
    for (int64_t j = 0; j < block.columns; j++) {
      const int64_t to = i * block.stride + j;
      if (plan.float32) {
        static_cast<float*>(block.out)[to] = static_cast<float>(row[j]);
      } else {
        static_cast<double*>(block.out)[to] = row[j];
      }
    }
  }
}

}  // namespace limprec::LIMPREC_LEVEL
