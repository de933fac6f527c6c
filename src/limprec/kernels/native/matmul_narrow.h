// Floating-point accumulators of at most 22 significant bits, one term after the other, in float32:
// AVX-512 can round a single operation down and up, and these two neighbours give the sum rounded
// to odd, whatever the operands are. It is then rounded once more, which is innocuous.
//
// Where both terms of a sum have at most 11 significant bits (and the accumulator no fewer than
// either), a nearest sum in float32's 24 = 2 * 11 + 2 bits may as well be rounded to nearest.
#pragma once

#include "carriers.h"
#include "lanes.h"
#include "matmul.h"

namespace limprec::LIMPREC_LEVEL {

constexpr int TILE_ROWS = 2, TILE_VECTORS = 4, TILE_COLUMNS = TILE_VECTORS * LANES;

#if defined(__AVX512F__)
// Of two neighbours the odd one, of equals either; +0 if these are the zeros of both signs.
static inline f32 odd_of(__m512 low, __m512 high) {
  const __mmask16 odd = _mm512_test_epi32_mask((__m512i)low, _mm512_set1_epi32(1));
  return (f32)_mm512_mask_mov_ps(high, odd, low);
}
constexpr int DOWNWARD = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
constexpr int UPWARD = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;

static inline f32 odd_multiply_add(f32 a, f32 b, f32 c) {
  const __m512 x = (__m512)a, y = (__m512)b, z = (__m512)c;
  return odd_of(_mm512_fmadd_round_ps(x, y, z, DOWNWARD), _mm512_fmadd_round_ps(x, y, z, UPWARD));
}
static inline f32 odd_product(f32 a, f32 b) {
  const __m512 x = (__m512)a, y = (__m512)b;
  return odd_of(_mm512_mul_round_ps(x, y, DOWNWARD), _mm512_mul_round_ps(x, y, UPWARD));
}
static inline f32 odd_sum(f32 a, f32 b) {
  const __m512 x = (__m512)a, y = (__m512)b;
  return odd_of(_mm512_add_round_ps(x, y, DOWNWARD), _mm512_add_round_ps(x, y, UPWARD));
}

// Nearest binary16, by the conversion instructions.
struct Half {
  explicit Half(const FloatFormat&) {}
  inline f32 operator()(f32 x) const {
    return (f32)_mm512_cvtph_ps(_mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT));
  }
};

// Any other format. A unit in the last place is a fixed bit of the pattern: add what carries into it
// when the value rounds away, then clear what is below. Below `limit` count whole units instead.
template <Rounding R>
struct Short {
  const FloatFormat p;
  explicit Short(const FloatFormat& facts) : p(facts) {}

  inline f32 operator()(f32 x) const {
    const u32 b = bits(x), a = b & 0x7fffffffu, sign = b & 0x80000000u;
    u32 r = (a + carry(a, sign)) & ~p.low;
    // Zeros are no exception; NaN is above any maximum.
    const u32 below = a - 1u < p.limit - 1u, above = r > p.max;
    if (__builtin_expect(any(below | above), 0)) r = exceptional(a, r, sign);
    return number(r | sign) + p.zero;
  }

 private:
  static inline bool any(u32 mask) {
    return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
  }

  inline u32 exceptional(u32 a, u32 r, u32 sign) const {
    r = (i32)a < static_cast<int32_t>(p.limit) ? bits(multiple(number(a), sign)) : r;
    r = r > p.max ? beyond(a, sign) : r;
    return (i32)a > 0x7f800000 ? a : r;  // NaN
  }

  inline u32 carry(u32 a, u32 sign) const {
    if constexpr (R == Rounding::NEAREST) return (a >> p.dropped & 1u) + (p.half - 1u);
    if constexpr (R == Rounding::NEAREST_AWAY) return splat(p.half);
    if constexpr (R == Rounding::TOWARD_ZERO) return u32{};
    const u32 negative = (u32)((i32)sign < 0);
    return (R == Rounding::DOWN ? negative : ~negative) & p.low;
  }

  inline u32 beyond(u32 a, u32 sign) const {
    const u32 side = (i32)sign < 0 ? splat(p.beyond[1]) : splat(p.beyond[0]);
    return (i32)a == 0x7f800000 ? splat(p.infinite) : side;
  }

  inline f32 multiple(f32 a, u32 sign) const {
    const f32 q = a * p.per_unit;
    if constexpr (R == Rounding::NEAREST) return nearest(q) * p.unit;
    const f32 low = floor(q);
    i32 away{};
    if constexpr (R == Rounding::NEAREST_AWAY) away = q - low >= 0.5f;
    if constexpr (R == Rounding::DOWN || R == Rounding::UP) {
      // Not q > low: a tiny `a` may have underflowed to q = 0.
      const i32 negative = (i32)sign < 0;
      away = (low * p.unit < a) & (R == Rounding::DOWN ? negative : ~negative);
    }
    return (low + number((u32)away & bits(splat(1.0f)))) * p.unit;
  }
};

struct Exact {  // no product format
  explicit Exact(const FloatFormat&) {}
};

// Q rounds sums, P products. PLAIN: sums of two rounded numbers may be rounded to nearest first.
template <class Q, class P, bool PLAIN, bool KAHAN>
struct Tile {
  static constexpr bool FUSED = __is_same(P, Exact);
  const Q q;
  const P p;
  explicit Tile(const MatmulPlan& plan) : q(plan.narrow_sum), p(plan.narrow_product) {}

  inline f32 add(f32 x, f32 y) const { return q(PLAIN ? x + y : odd_sum(x, y)); }

  inline f32 add_product(f32 acc, f32 a, f32 b) const {
    if constexpr (FUSED) {
      return q(odd_multiply_add(a, b, acc));
    } else {
      return add(acc, p(odd_product(a, b)));
    }
  }

  inline void compensate(f32& s, f32& c, f32 y) const {
    const f32 t = add(s, y);
    c = add(add(t, -s), -y);
    s = t;
  }

  // ROWS rows of `a` and one panel of b, whose rows have TILE_COLUMNS elements.
  template <int ROWS>
  inline void multiply(const MatmulPlan& plan, const Block& block, const float* panel,
                       int64_t row) const {
    const float* a = static_cast<const float*>(block.a) + row * block.length;
    const int64_t size = plan.chunk > 0 ? plan.chunk : block.length;
    f32 total[ROWS][TILE_VECTORS] = {}, carry[ROWS][TILE_VECTORS] = {};
    for (int64_t start = 0; start < block.length; start += size) {
      const int64_t stop = start + size < block.length ? start + size : block.length;
      f32 s[ROWS][TILE_VECTORS] = {}, c[ROWS][TILE_VECTORS] = {};
      for (int64_t k = start; k < stop; k++) {
        const float* b = panel + k * TILE_COLUMNS;
#pragma GCC unroll 4
        for (int v = 0; v < TILE_VECTORS; v++) {
          const f32 right = load<f32>(b + v * LANES);
#pragma GCC unroll 4
          for (int r = 0; r < ROWS; r++) {
            const f32 left = splat(a[r * block.length + k]);
            if constexpr (KAHAN) {
              compensate(s[r][v], c[r][v], add_product(-c[r][v], left, right));
            } else {
              s[r][v] = add_product(s[r][v], left, right);
            }
          }
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < TILE_VECTORS; v++) {
          if (plan.chunk == 0) {
            total[r][v] = s[r][v];
          } else if constexpr (KAHAN) {
            compensate(total[r][v], carry[r][v], add(s[r][v], -carry[r][v]));
          } else {
            total[r][v] = add(total[r][v], s[r][v]);
          }
        }
    }
    for (int r = 0; r < ROWS; r++) {
      float* to = static_cast<float*>(block.out) + (row + r) * block.stride;
      float buffer[TILE_COLUMNS];
      for (int v = 0; v < TILE_VECTORS; v++) store(buffer + v * LANES, total[r][v]);
      __builtin_memcpy(to, buffer, static_cast<size_t>(block.columns) * sizeof(float));
    }
  }
};

template <class Q, class P, bool PLAIN, bool KAHAN>
static void multiply_tiles(const MatmulPlan& plan, const Block& block) {
  float* panel = reinterpret_cast<float*>(block.workspace);
  if (block.columns < TILE_COLUMNS)
    __builtin_memset(panel, 0, static_cast<size_t>(block.length) * TILE_COLUMNS * sizeof(float));
  for (int64_t k = 0; k < block.length; k++)
    __builtin_memcpy(panel + k * TILE_COLUMNS,
                     static_cast<const float*>(block.b) + k * block.stride,
                     static_cast<size_t>(block.columns) * sizeof(float));
  const Tile<Q, P, PLAIN, KAHAN> tile(plan);
  int64_t row = 0;
  for (; row + TILE_ROWS <= block.rows; row += TILE_ROWS)
    tile.template multiply<TILE_ROWS>(plan, block, panel, row);
  for (; row < block.rows; row++) tile.template multiply<1>(plan, block, panel, row);
}

template <class Q, class P, bool PLAIN>
static void narrow_adder(const MatmulPlan& plan, const Block& block) {
  if (plan.adder == Adder::KAHAN) return multiply_tiles<Q, P, PLAIN, true>(plan, block);
  multiply_tiles<Q, P, PLAIN, false>(plan, block);
}

template <class Q, class P>
static void narrow_sums(const MatmulPlan& plan, const Block& block) {
  if (plan.plain_sums) return narrow_adder<Q, P, true>(plan, block);
  narrow_adder<Q, P, false>(plan, block);
}

template <Rounding R>
static void narrow_in_mode(const MatmulPlan& plan, const Block& block) {
  if (plan.has_product) return narrow_adder<Short<R>, Short<R>, false>(plan, block);
  narrow_adder<Short<R>, Exact, false>(plan, block);
}

static void multiply_narrow(const MatmulPlan& plan, const Block& block) {
  switch (plan.sum.rounding) {
    case Rounding::NEAREST: {
      using Near = Short<Rounding::NEAREST>;
      if (plan.half && plan.half_product) return narrow_sums<Half, Half>(plan, block);
      if (plan.half && plan.has_product) return narrow_sums<Half, Near>(plan, block);
      if (plan.half) return narrow_sums<Half, Exact>(plan, block);
      if (plan.has_product) return narrow_sums<Near, Near>(plan, block);
      return narrow_sums<Near, Exact>(plan, block);
    }
    case Rounding::NEAREST_AWAY:
      return narrow_in_mode<Rounding::NEAREST_AWAY>(plan, block);
    case Rounding::TOWARD_ZERO:
      return narrow_in_mode<Rounding::TOWARD_ZERO>(plan, block);
    case Rounding::DOWN:
      return narrow_in_mode<Rounding::DOWN>(plan, block);
    default:
      return narrow_in_mode<Rounding::UP>(plan, block);
  }
}
#endif

}  // namespace limprec::LIMPREC_LEVEL
