// The product of int8 matrices with the dot product of bytes of AVX-512 VNNI.
//
// vpdpbusd multiplies unsigned bytes by signed ones and adds four products to a 32-bit lane, without
// saturation. The codes of b become unsigned by adding 128, which is taken back with the sums of
// a's rows: sum a b = sum a (b + 128) - 128 sum a, modulo 2^32. b is packed so that a vector holds
// four terms of 16 columns; of a four terms of one row are broadcast. Bytes of b beyond the last
// term are 0, so that those of a may be anything. Terms that are 0 in all rows of a tile of a, at
// either end, are left out: of the weights of a causal attention that is half.
#include "codes_matmul.h"

#if defined(LIMPREC_X86)

#include "vnni.h"

#include <algorithm>
#include <cstring>

namespace limprec {
namespace {

constexpr int TILE = 12, WIDTH = 2;           // of a tile: rows, vectors of columns
constexpr int64_t PACKED_BYTES = 768 * 1024;  // of b, to stay in the second cache

constexpr int64_t AHEAD = 32;                 // rows, to be fetched early
constexpr int64_t BLOCK_ROWS = 16 * TILE;    // of a, packed together: three lines of bytes wide

// Where four terms of a neighbour go: tiles of neighbours together, with all their terms.
template <int TOGETHER>
struct Packed {
  char* data;
  int64_t groups;  // fours of terms

  char* at(int64_t neighbour, int64_t group) const {
    const int64_t tile = neighbour / TOGETHER, inside = neighbour % TOGETHER;
    return data + 4 * ((tile * groups + group) * TOGETHER + inside);
  }
};

// Packs `terms` rows (step bytes apart) of `count` neighbouring bytes, as far as whole tiles go.
// With a flip of 0x80 codes become unsigned; what is beyond is 0.
template <int TOGETHER>
VNNI void pack_across(const int8_t* from, int64_t step, int64_t terms, int64_t count, char flip,
                      const Packed<TOGETHER>& out) {
  constexpr int PARTS = TOGETHER % LANES == 0 ? 1 : 2;  // of a vector, each in a tile of its own
  const __m512i change = _mm512_set1_epi8(flip);
  const int64_t wide = up(count, TOGETHER);
  for (int64_t i = 0; i < wide; i += 64) {
    const __mmask64 there = first(count - i);
    char* to[4][PARTS];
    __mmask16 lanes[4][PARTS];
    for (int v = 0; v < 4; v++) {
      const int64_t neighbour = i + LANES * v, next = neighbour / TOGETHER * TOGETHER + TOGETHER;
      const __mmask16 all = static_cast<__mmask16>(first(std::min<int64_t>(LANES, wide - neighbour)));
      lanes[v][0] = all, to[v][0] = out.at(neighbour, 0);
      if (PARTS == 1) continue;
      const auto low = static_cast<__mmask16>(first(std::min<int64_t>(LANES, next - neighbour)));
      lanes[v][0] = all & low, lanes[v][PARTS - 1] = static_cast<__mmask16>(all & ~low);
      to[v][PARTS - 1] = out.at(next, 0) - 4 * (next - neighbour);
    }
    const int8_t* source = from + i;
    for (int64_t t = 0, at = 0; t < terms; t += 4, source += 4 * step, at += 4 * TOGETHER) {
      __m512i rows[4], packed[4];
      for (int r = 0; r < 4; r++) {
        const __mmask64 taken = t + r < terms ? there : 0;
        _mm_prefetch(reinterpret_cast<const char*>(source) + (AHEAD + r) * step, _MM_HINT_T0);
        rows[r] = _mm512_maskz_loadu_epi8(taken, source + r * step);
        if (flip) rows[r] = _mm512_maskz_mov_epi8(taken, _mm512_xor_si512(rows[r], change));
      }
      interleave(rows, packed);
      for (int v = 0; v < 4; v++)
        for (int part = 0; part < PARTS; part++)
          _mm512_mask_storeu_epi32(to[v][part] + at, lanes[v][part], packed[v]);
    }
  }
}

// The same from `count` columns (step bytes apart) of `terms` neighbouring bytes; tiles are
// multiples of a vector.
template <int TOGETHER>
VNNI void pack_along(const int8_t* from, int64_t step, int64_t terms, int64_t count, char flip,
                     const Packed<TOGETHER>& out) {
  const __m512i change = _mm512_set1_epi8(flip);
  for (int64_t i = 0; i < up(count, TOGETHER); i += LANES)
    for (int64_t t = 0; t < terms; t += 64) {
      const __mmask64 there = first(terms - t);
      __m512i x[16];
      for (int r = 0; r < 16; r++) {
        const __mmask64 taken = i + r < count ? there : 0;
        const __m512i bytes = _mm512_maskz_loadu_epi8(taken, from + (i + r) * step + t);
        x[r] = _mm512_maskz_mov_epi8(taken, _mm512_xor_si512(bytes, change));
      }
      transpose(x);
      for (int64_t q = 0; q < 16 && t + 4 * q < terms; q++)
        _mm512_storeu_si512(out.at(i, t / 4 + q), x[q]);
    }
}

// Where the rows of a tile of a are: four terms of row r at data + group * next + r * row.
struct Rows {
  const char* data;
  int64_t row, next;
  int64_t tile;  // from one tile to the next
};

// The groups of four terms of a tile of a that are not 0 throughout.
struct Groups {
  int64_t begin = 0, end = 0;

  void take_in(int64_t first, int64_t last) {
    begin = end == 0 ? first : std::min(begin, first);
    end = std::max(end, last + 1);
  }
  // Terms from `at` on: which of 64 are not 0.
  void see(uint64_t some, int64_t at) {
    if (some) take_in((at + __builtin_ctzll(some)) / 4, (at + 63 - __builtin_clzll(some)) / 4);
  }
};

// -128 times the sums of R rows.
template <int R>
VNNI_INLINE void corrections(const Rows& a, int64_t terms, int32_t* out, Groups& groups) {
  const __m512i ones = _mm512_set1_epi8(1);
  __m512i sums[R];
  for (int r = 0; r < R; r++) sums[r] = _mm512_setzero_si512();
  for (int64_t t = 0; t < terms; t += 64) {
    const __mmask64 there = first(terms - t);
    __m512i some = _mm512_setzero_si512();
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) {
      const __m512i bytes = _mm512_maskz_loadu_epi8(there, a.data + r * a.row + t);
      sums[r] = _mm512_dpbusd_epi32(sums[r], ones, bytes);
      some = _mm512_or_si512(some, bytes);
    }
    groups.see(_mm512_test_epi8_mask(some, some), t);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++) out[r] = -128 * _mm512_reduce_add_epi32(sums[r]);
}

// -128 times the sums of the rows of a tile, and what of it is not 0.
VNNI Groups corrections(const Rows& a, int rows, int64_t terms, int32_t* out) {
  const __m512i ones = _mm512_set1_epi8(1);
  Groups groups;
  if (a.next != 4) {  // packed: the tile is whole, and three vectors hold four groups
    static_assert(4 * TILE == 3 * LANES);
    const int64_t bytes = (terms + 3) / 4 * 4 * TILE;
    __m512i sums[3] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512()};
    for (int64_t at = 0; at < bytes; at += 192) {
      __m512i some = _mm512_setzero_si512();
      for (int v = 0; v < 3; v++) {
        const __m512i four = _mm512_maskz_loadu_epi8(first(bytes - at - 64 * v), a.data + at + 64 * v);
        sums[v] = _mm512_dpbusd_epi32(sums[v], ones, four);
        some = _mm512_or_si512(some, four);
      }
      const int64_t group = at / (4 * TILE), last = (terms - 1) / 4;
      if (_mm512_test_epi8_mask(some, some)) groups.take_in(group, std::min(group + 3, last));
    }
    int32_t each[4 * TILE];
    for (int v = 0; v < 3; v++) _mm512_storeu_si512(each + LANES * v, sums[v]);
    for (int r = 0; r < TILE; r++)
      out[r] = -128 * (each[r] + each[TILE + r] + each[2 * TILE + r] + each[3 * TILE + r]);
    return groups;
  }
  if (rows == TILE) {
    corrections<TILE>(a, terms, out, groups);
    return groups;
  }
  for (int r = 0; r < rows; r++)
    corrections<1>({a.data + r * a.row, a.row, a.next, a.tile}, terms, out + r, groups);
  return groups;
}

// Which numbers a tile's sums become.
struct Finish {
  Scale scale;
  const float* bias;
  float* out;
  int64_t stride;
  int64_t columns;  // of the tile that are there
};

// How far rows are from the first. An address is a register plus another times 1, 2, 4 or 8: the odd
// multiples of a stride reach every row, and no more registers are needed, nor moves between them
// and vectors, which take the multiplier's place.
struct Distances {
  int64_t one, three, five, seven, nine, eleven;

  explicit Distances(int64_t row)
      : one(row), three(3 * row), five(5 * row), seven(7 * row), nine(9 * row), eleven(11 * row) {}
  VNNI_INLINE void keep() {  // as they are: compilers would sooner keep every multiple
    __asm__("" : "+r"(one), "+r"(three), "+r"(five), "+r"(seven), "+r"(nine), "+r"(eleven));
  }
  template <int ROW>
  VNNI_INLINE int64_t of() const {
    constexpr int ODD = ROW % 8 == 0 ? 1 : ROW % 4 == 0 ? ROW / 4 : ROW % 2 == 0 ? ROW / 2 : ROW;
    const int64_t odd = ODD == 1 ? one : ODD == 3 ? three : ODD == 5 ? five : ODD == 7 ? seven
                        : ODD == 9 ? nine : eleven;
    return odd * (ROW / ODD);
  }
};

// Adds what rows ROW to R - 1 of a times vectors of b are.
template <int ROW, int R, int V>
VNNI_INLINE void add(const char* from, const Distances& rows, const __m512i* terms, __m512i (&sums)[R][V]) {
  if constexpr (ROW < R) {
    int32_t four;
    std::memcpy(&four, from + rows.of<ROW>(), 4);
    const __m512i each = _mm512_set1_epi32(four);
    for (int v = 0; v < V; v++) sums[ROW][v] = _mm512_dpbusd_epi32(sums[ROW][v], terms[v], each);
    add<ROW + 1>(from, rows, terms, sums);
  }
}

template <int R, int V>
VNNI void tile(const Rows& a, const char* b, int64_t groups, const int32_t* start, const Finish& f) {
  __m512i sums[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sums[r][v] = _mm512_set1_epi32(start[r]);
  const char* from = a.data;
  const int64_t next = a.next;
  Distances rows(a.row);
  for (int64_t g = 0; g < groups; g++, b += 64 * WIDTH, from += next) {
    rows.keep();
    __m512i terms[V];
    for (int v = 0; v < V; v++) terms[v] = _mm512_loadu_si512(b + 64 * v);
    add<0>(from, rows, terms, sums);
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) {
      const __mmask16 taken = lanes(f.columns - LANES * v);
      __m512 y = f.scale.of(sums[r][v]);
      if (f.bias) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(taken, f.bias + LANES * v));
      _mm512_mask_storeu_ps(f.out + r * f.stride + LANES * v, taken, y);
    }
}

using Tile = void (*)(const Rows&, const char*, int64_t, const int32_t*, const Finish&);

template <int V>
Tile tile_of(int rows) {
  static constexpr Tile all[] = {tile<1, V>, tile<2, V>, tile<3, V>,  tile<4, V>,  tile<5, V>, tile<6, V>,
                                 tile<7, V>, tile<8, V>, tile<9, V>, tile<10, V>, tile<11, V>, tile<12, V>};
  return all[rows - 1];
}

// The rows of a, ready to be broadcast: where they are, or packed.
VNNI Rows rows_of(const Matrix& a, int64_t row, int64_t count, int64_t terms, char* room) {
  const int8_t* from = a.at(row, 0);
  if (a.column == 1 && terms % 4 == 0)
    return {reinterpret_cast<const char*>(from), a.row, 4, TILE * a.row};
  const int64_t groups = (terms + 3) / 4;
  if (a.column == 1) {
    for (int64_t r = 0; r < count; r++)
      std::memcpy(room + 4 * groups * r, from + r * a.row, static_cast<size_t>(terms));
    return {room, 4 * groups, 4, TILE * 4 * groups};
  }
  pack_across<TILE>(from, a.column, terms, count, 0, {room, groups});
  return {room, 4, 4 * TILE, TILE * 4 * groups};
}

// Columns that are packed together.
int64_t block_columns(const CodesProduct& p) {
  const int64_t all = up(p.columns, WIDTH * LANES), blocks = up(all * p.length, PACKED_BYTES) / PACKED_BYTES;
  return blocks > 1 ? up(up(all, blocks) / blocks, WIDTH * LANES) : all;
}

}  // namespace

bool has_codes_matmul() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
  return has;
}

int64_t codes_across(const CodesProduct& p) {
  const int64_t wide = block_columns(p);
  return (p.columns + wide - 1) / wide;
}

int64_t codes_down(const CodesProduct& p) { return (p.rows + TILE - 1) / TILE; }

VNNI void multiply_codes(const CodesProduct& p, int64_t begin, int64_t end) {
  const int64_t wide = block_columns(p), padded = up(p.length, 4);
  const int64_t down = codes_down(p), across = codes_across(p);
  const Room for_b(padded * wide), for_a(padded * BLOCK_ROWS);
  const Packed<WIDTH * LANES> whole{for_b.data, padded / 4};
  const Scale scale(p.scale);
  int64_t packed = -1;
  for (int64_t item = begin, tiles; item < end; item += tiles) {
    tiles = std::min({end - item, down - item % down, BLOCK_ROWS / TILE});
    const int64_t block = item / down, matrix = block / across;
    const int64_t column = block % across * wide, columns = std::min(wide, p.columns - column);
    const int64_t row = item % down * TILE, rows = std::min(tiles * TILE, p.rows - row);
    if (block != packed) {
      const int8_t* from = p.b.at(0, column) + p.b_starts[matrix];
      const auto pack = p.b.column == 1 ? pack_across<WIDTH * LANES> : pack_along<WIDTH * LANES>;
      pack(from, p.b.column == 1 ? p.b.row : p.b.column, p.length, columns,
           static_cast<char>(0x80), whole);
      packed = block;
    }
    const Matrix at{p.a.data + p.a_starts[matrix], p.a.row, p.a.column};
    Rows a = rows_of(at, row, rows, p.length, for_a.data);
    float* out = p.out + p.out_starts[matrix] + row * p.stride + column;
    for (int64_t r = 0; r < rows; r += TILE) {
      const int count = static_cast<int>(std::min<int64_t>(TILE, rows - r));
      int32_t start[LANES];
      const Groups taken = corrections(a, count, p.length, start);
      const Rows from{a.data + taken.begin * a.next, a.row, a.next, a.tile};
      if (p.sums && column == 0)
        for (int i = 0; i < count; i++) p.sums[matrix * p.rows + row + r + i] = start[i] / -128;
      for (int64_t c = 0; c < columns; c += WIDTH * LANES) {
        const Finish f{scale, p.bias ? p.bias + column + c : nullptr, out + r * p.stride + c,
                       p.stride, columns - c};
        const Tile work = columns - c > LANES ? tile_of<2>(count) : tile_of<1>(count);
        work(from, whole.at(c, taken.begin), taken.end - taken.begin, start, f);
      }
      a.data += a.tile;
    }
  }
}

}  // namespace limprec

#else

namespace limprec {

bool has_codes_matmul() { return false; }
int64_t codes_across(const CodesProduct&) { return 1; }
int64_t codes_down(const CodesProduct&) { return 1; }
void multiply_codes(const CodesProduct&, int64_t, int64_t) {}

}  // namespace limprec

#endif
