// Correlations of int8 codes: the taps of a tile of results are shifts of one scratch memory.
//
// Codes are unsigned there (code + 128, and 128 for the zeros about them), which takes 128 times the
// sum of each output's weights to undo. Channels come in fours, so that one vpdpbusd adds four
// products. Where neighbouring results are neighbours in memory, a vector holds 16 of them, of one
// channel; where channels are, 16 channels of one.
#include "codes_conv.h"

#if defined(LIMPREC_X86)

#include <cstring>
#include <memory>
#include <vector>

#include "codes_conv_layout.h"
#include "vnni.h"

namespace limprec {
namespace {

constexpr int ROWS = 8, VECTORS = 3;        // of a tile: channels, vectors of places
constexpr int PLACES = 12, ACROSS = 2;      // or: places, vectors of channels
constexpr int64_t SLACK = VECTORS * LANES;  // places a tile may read beyond the last
constexpr int64_t FEW = 1024;               // positions that are worth an item
constexpr int64_t LAID_BYTES = 512 * 1024;  // of an item, to stay in the second cache

// The weights of all groups, four channels of so many outputs together.
struct Weights {
  int64_t together, tiles, steps;  // tiles of a group; taps times fours of channels
  std::unique_ptr<Room> packed;
  std::vector<int32_t> starts;  // -128 times the sum of each output's weights

  const char* at(int64_t tile) const { return packed->data + tile * steps * 4 * together; }
  const int32_t* start(int64_t tile) const { return starts.data() + tile * together; }
};

void pack(const Correlation& c, Weights& w, const std::vector<int64_t>& taps, int64_t tile) {
  char* to = w.packed->data + tile * w.steps * 4 * w.together;
  int32_t* sums = w.starts.data() + tile * w.together;
  const int64_t first = tile % w.tiles * w.together, rows = std::min(w.together, c.outputs - first);
  const int8_t* from = c.weight + tile / w.tiles * c.to_group + first * c.to_output;
  std::memset(to, 0, static_cast<size_t>(w.steps * 4 * w.together));
  for (const int64_t tap : taps)
    for (int64_t i = 0; i < c.inputs; i += 4, to += 4 * w.together)
      for (int64_t r = 0; r < rows; r++) {
        const int8_t* source = from + r * c.to_output + tap + i * c.to_input;
        for (int64_t j = 0; j < std::min<int64_t>(4, c.inputs - i); j++) {
          const int8_t code = source[j * c.to_input];
          to[4 * r + j] = static_cast<char>(code);
          sums[r] -= 128 * code;
        }
      }
}

Weights pack_all(const Correlation& c, int64_t together, const Threads& threads) {
  std::vector<int64_t> taps{0};
  for (int d = 0; d < DIMENSIONS; d++) {
    std::vector<int64_t> finer;
    for (const int64_t tap : taps)
      for (int64_t k = 0; k < c.axes[d].count; k++) finer.push_back(tap + k * c.to_tap[d]);
    taps = std::move(finer);
  }
  Weights w{together, (c.outputs + together - 1) / together,
            static_cast<int64_t>(taps.size()) * ((c.inputs + 3) / 4), nullptr, {}};
  const int64_t all = c.groups * w.tiles;
  w.packed = std::make_unique<Room>(all * w.steps * 4 * together);
  w.starts.assign(static_cast<size_t>(all * together), 0);
  threads.run(all, 32 * w.steps * together, [&](int64_t begin, int64_t end) {
    for (int64_t tile = begin; tile < end; tile++) pack(c, w, taps, tile);
  });
  return w;
}

// Some lanes of a vector of places, and where the first goes; the others follow it, `apart` floats
// from one to the next.
struct Segment {
  int64_t to;
  __mmask16 lanes;
};

// Where the results of an item go.
struct Targets {
  std::vector<int64_t> to;  // of each place, -1 where it is none
  int64_t apart;
  std::vector<Segment> segments;  // of each vector of places
  std::vector<int32_t> first;     // each vector's first one, and the end
};

Targets targets_of(const Correlation& c, const Layout& l, const Item& item) {
  const Extent(&a)[DIMENSIONS] = item.axes;
  const int64_t count = l.places(a, item.samples);
  Targets t{std::vector<int64_t>(static_cast<size_t>(count + SLACK), -1),
            a[2].positions == 1 ? 1 : c.out.axis[2], {}, {}};
  for (int64_t n = 0; n < item.samples; n++)
    for (int64_t i = 0; i < a[0].positions; i++)
      for (int64_t j = 0; j < a[1].positions; j++) {
        const int64_t place = n * l.sample + i * l.apart[0] + j * l.apart[1];
        const int64_t to = n * c.out.sample + i * c.out.axis[0] + j * c.out.axis[1];
        for (int64_t k = 0; k < a[2].positions; k++)
          t.to[static_cast<size_t>(place + k)] = to + k * c.out.axis[2];
      }
  for (int64_t from = 0; from < count; from += LANES) {
    t.first.push_back(static_cast<int32_t>(t.segments.size()));
    int64_t next = -1;
    for (int lane = 0; lane < LANES; lane++) {
      const int64_t to = t.to[static_cast<size_t>(from + lane)];
      if (to < 0) continue;
      if (to != next) t.segments.push_back({to, 0});
      t.segments.back().lanes = static_cast<__mmask16>(t.segments.back().lanes | 1u << lane);
      next = to + t.apart;
    }
  }
  t.first.push_back(static_cast<int32_t>(t.segments.size()));
  return t;
}

// The sums of R channels of V vectors of places, a channel after the other.
template <int R, int V>
VNNI void tile(const char* from, const int64_t* steps, int64_t count, const char* w, int32_t* out) {
  __m512i sums[R][V];
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) sums[r][v] = _mm512_setzero_si512();
  for (int64_t k = 0; k < count; k++, w += 4 * ROWS) {
    __m512i terms[V];
    const char* at = from + steps[k];
    for (int v = 0; v < V; v++) terms[v] = _mm512_loadu_si512(at + 64 * v);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      int32_t four;
      std::memcpy(&four, w + 4 * r, 4);
      const __m512i each = _mm512_set1_epi32(four);
      for (int v = 0; v < V; v++) sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], terms[v], each);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; r++)
#pragma GCC unroll 4
    for (int v = 0; v < V; v++) _mm512_store_si512(out + LANES * (V * r + v), sums[r][v]);
}

// The same with the vectors the other way: V vectors of channels of each of 12 places.
template <int V>
VNNI void tile_last(const char* from, const int64_t* steps, int64_t count, const char* w, int32_t* out) {
  __m512i sums[PLACES][V];
#pragma GCC unroll 12
  for (int r = 0; r < PLACES; r++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) sums[r][v] = _mm512_setzero_si512();
  for (int64_t k = 0; k < count; k++, w += 64 * ACROSS) {
    __m512i terms[V];
    const char* at = from + steps[k];
    for (int v = 0; v < V; v++) terms[v] = _mm512_loadu_si512(w + 64 * v);
#pragma GCC unroll 12
    for (int r = 0; r < PLACES; r++) {
      int32_t four;
      std::memcpy(&four, at + 4 * r, 4);
      const __m512i each = _mm512_set1_epi32(four);
      for (int v = 0; v < V; v++) sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], each, terms[v]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < PLACES; r++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) _mm512_store_si512(out + LANES * (V * r + v), sums[r][v]);
}

using Tile = void (*)(const char*, const int64_t*, int64_t, const char*, int32_t*);

template <int V>
Tile tile_of(int64_t rows) {
  static constexpr Tile all[] = {tile<1, V>, tile<2, V>, tile<3, V>, tile<4, V>,
                                 tile<5, V>, tile<6, V>, tile<7, V>, tile<8, V>};
  return all[rows - 1];
}

// How sums become results.
struct Finish {
  Scale scale;
  const int32_t* start;  // of the tile's channels
  const float* bias;     // of them, or null
  float* out;            // of the item's first sample, and the first of them
  int64_t stride;        // of channels
  const Targets* targets;

  // Of `rows` channels, each of `vectors` vectors of places from one on, of which `left` are wanted.
  VNNI void places(const int32_t* sums, int64_t rows, int64_t vectors, int64_t place, int64_t left) const {
    for (int64_t v = 0; v < vectors; v++) {
      const __mmask16 there = lanes(left - LANES * v);
      const auto vector = static_cast<size_t>(place / LANES + v);
      const Segment* begin = targets->segments.data() + targets->first[vector];
      const Segment* end = targets->segments.data() + targets->first[vector + 1];
      for (int64_t r = 0; r < rows; r++) {
        __m512 y = scale.of(_mm512_add_epi32(_mm512_load_si512(sums + LANES * (vectors * r + v)),
                                             _mm512_set1_epi32(start[r])));
        if (bias) y = _mm512_add_ps(y, _mm512_set1_ps(bias[r]));
        for (const Segment* s = begin; s < end; s++)
          store(out + r * stride + s->to, s->lanes & there, y, targets->apart);
      }
    }
  }

  // Stores some lanes one after the other, `apart` floats from one to the next.
  VNNI_INLINE static void store(float* to, __mmask16 taken, __m512 y, int64_t apart) {
    const int count = __builtin_popcount(taken);
    if (taken != 0xffff) y = _mm512_maskz_compress_ps(taken, y);
    if (apart == 1) return _mm512_mask_storeu_ps(to, lanes(count), y);
    if (apart == 2) {
      const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
      const __m512i more = _mm512_add_epi32(twice, _mm512_set1_epi32(8));
      _mm512_mask_storeu_ps(to, lanes(2 * count) & 0x5555, _mm512_permutexvar_ps(twice, y));
      if (count > 8)
        _mm512_mask_storeu_ps(to + 16, lanes(2 * count - 16) & 0x5555, _mm512_permutexvar_ps(more, y));
      return;
    }
    float each[LANES];
    _mm512_storeu_ps(each, y);
    for (int64_t i = 0; i < count; i++) to[i * apart] = each[i];
  }

  // Of 12 places, each of `vectors` vectors of channels, of which `left` and `rows` are wanted.
  VNNI void channels(const int32_t* sums, int64_t rows, int64_t vectors, int64_t place, int64_t left) const {
    const int64_t* to = targets->to.data() + place;
    for (int64_t v = 0; v < vectors; v++) {
      const __mmask16 there = lanes(rows - LANES * v);
      const __m512i more = _mm512_loadu_si512(start + LANES * v);
      const __m512 addend = bias ? _mm512_maskz_loadu_ps(there, bias + LANES * v) : _mm512_setzero_ps();
      for (int64_t i = 0; i < std::min<int64_t>(PLACES, left); i++) {
        if (to[i] < 0) continue;
        __m512 y = scale.of(_mm512_add_epi32(_mm512_load_si512(sums + LANES * (vectors * i + v)), more));
        if (bias) y = _mm512_add_ps(y, addend);
        _mm512_mask_storeu_ps(out + to[i] + LANES * v, there, y);
      }
    }
  }
};

class Correlating {
 public:
  Correlating(const Correlation& c, const Threads& threads)
      : c_(c), last_(c.out.channel == 1 && c.outputs > 1), fours_((c.inputs + 3) / 4),
        items_(c.axes, c.batch, FEW, std::max<int64_t>(64, LAID_BYTES / (4 * fours_)), threads.count),
        layout_(items_.layout(SLACK)), targets_(targets_of(c, layout_, items_.at(0))),
        weights_(pack_all(c, last_ ? ACROSS * LANES : ROWS, threads)) {
    for (const int64_t tap : layout_.taps(c.axes))
      for (int64_t i = 0; i < fours_; i++) steps_.push_back(4 * (tap + i * layout_.channel()));
  }

  void run(const Threads& threads) const {
    const int64_t positions = c_.axes[0].positions * c_.axes[1].positions * c_.axes[2].positions;
    const int64_t all = c_.batch * positions * c_.groups * c_.outputs * 4 * weights_.steps;
    threads.run(items_.count(), all / items_.count() + 1,
                [this](int64_t begin, int64_t end) { work(begin, end); });
  }

 private:
  void work(int64_t begin, int64_t end) const {
    const int64_t bytes = 4 * fours_ * layout_.channel();
    const Room room(bytes);
    std::memset(room.data, 0x80, static_cast<size_t>(bytes));
    for (int64_t number = begin; number < end; number++) {
      const Item item = items_.at(number);
      if (items_.bands > 1) std::memset(room.data, 0x80, static_cast<size_t>(bytes));
      const Laying laying(c_.in, item, layout_);
      for (int64_t group = 0; group < c_.groups; group++) {
        for (int64_t i = 0; i < fours_; i++)
          laying.fours(group * c_.inputs + 4 * i, std::min<int64_t>(4, c_.inputs - 4 * i),
                       room.data + 4 * i * layout_.channel());
        for (int64_t t = 0; t < weights_.tiles; t++) multiply(item, group, t, room.data);
      }
    }
  }

  void multiply(const Item& item, int64_t group, int64_t number, const char* from) const {
    const int64_t inside = number * weights_.together, channel = group * c_.outputs + inside;
    const int64_t rows = std::min(weights_.together, c_.outputs - inside);
    const int64_t places = layout_.places(item.axes, item.samples);
    const char* w = weights_.at(group * weights_.tiles + number);
    const auto steps = static_cast<int64_t>(steps_.size());
    const Finish f{Scale(c_.scale),
                   weights_.start(group * weights_.tiles + number),
                   c_.bias ? c_.bias + channel : nullptr,
                   c_.out.at(item.sample, channel) + item.begin * c_.out.axis[items_.axis],
                   c_.out.channel,
                   &targets_};
    alignas(64) int32_t sums[LANES * std::max(ROWS * VECTORS, PLACES * ACROSS)];
    if (last_) {
      const int64_t vectors = rows > LANES ? 2 : 1;
      const Tile tile = vectors > 1 ? tile_last<2> : tile_last<1>;
      for (int64_t p = 0; p < places; p += PLACES) {
        tile(from + 4 * p, steps_.data(), steps, w, sums);
        f.channels(sums, rows, vectors, p, places - p);
      }
      return;
    }
    const Tile tiles[] = {tile_of<1>(rows), tile_of<2>(rows), tile_of<3>(rows)};
    for (int64_t p = 0; p < places; p += VECTORS * LANES) {
      const int64_t vectors = std::min<int64_t>(VECTORS, (places - p + LANES - 1) / LANES);
      tiles[vectors - 1](from + 4 * p, steps_.data(), steps, w, sums);
      f.places(sums, rows, vectors, p, places - p);
    }
  }

  const Correlation& c_;
  const bool last_;
  const int64_t fours_;  // of channels in a group
  const Items items_;
  const Layout layout_;
  const Targets targets_;
  const Weights weights_;
  std::vector<int64_t> steps_;  // bytes to the codes of each tap and four channels
};

}  // namespace

void correlate_codes(const Correlation& c, const Threads& threads) { Correlating(c, threads).run(threads); }

}  // namespace limprec

#else

namespace limprec {

void correlate_codes(const Correlation&, const Threads&) {}

}  // namespace limprec

#endif
