// The gradient of a convolution with respect to its weight: a sum over samples and positions.
//
// Four neighbouring places are summed by one vpdpbusd: of the errors they lie together, for 16
// channels in a vector; of one input channel under one tap they are any four neighbouring bytes, to
// be broadcast. Between the positions errors are 0, so that codes there may be anything. Codes of
// the input are unsigned (code + 128), which takes 128 times the sum of the errors to undo.
#include "codes_conv.h"

#if defined(LIMPREC_X86)

#include <cstring>
#include <mutex>
#include <vector>

#include "codes_conv_layout.h"
#include "codes_matmul.h"
#include "vnni.h"

namespace limprec {
namespace {

constexpr int ROWS = 12, ACROSS = 2;        // of a tile: taps of input channels, vectors of channels
constexpr int64_t SLACK = 64;               // places a tile may read beyond the last
constexpr int64_t FEW = 1024;               // positions that are worth an item
constexpr int64_t LAID_BYTES = 512 * 1024;  // of an item's input
constexpr int64_t SUM_BYTES = 512 * 1024;   // of the sums that are updated by each item
constexpr int64_t WIDE = ACROSS * LANES;

// Adds the sums of so many fours of places to those in memory.
template <int R, int V>
VNNI void tile(const char* in, const int64_t* rows, const char* errors, int64_t step, int64_t fours,
               int32_t* out, int64_t stride) {
  __m512i sums[R][V];
  const char* from[R];
#pragma GCC unroll 12
  for (int r = 0; r < R; r++) {
    from[r] = in + rows[r];
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) sums[r][v] = _mm512_loadu_si512(out + r * stride + LANES * v);
  }
  for (int64_t q = 0; q < 4 * fours; q += 4, errors += step) {
    __m512i terms[V];
    for (int v = 0; v < V; v++) terms[v] = _mm512_loadu_si512(errors + 64 * v);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++) {
      int32_t four;
      std::memcpy(&four, from[r] + q, 4);
      const __m512i each = _mm512_set1_epi32(four);
      for (int v = 0; v < V; v++) sums[r][v] = _mm512_dpbusd_epi32(sums[r][v], each, terms[v]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 2
    for (int v = 0; v < V; v++) _mm512_storeu_si512(out + r * stride + LANES * v, sums[r][v]);
}

using Tile = void (*)(const char*, const int64_t*, const char*, int64_t, int64_t, int32_t*, int64_t);

template <int V>
Tile tile_of(int64_t rows) {
  static constexpr Tile all[] = {tile<1, V>, tile<2, V>, tile<3, V>, tile<4, V>,  tile<5, V>,  tile<6, V>,
                                 tile<7, V>, tile<8, V>, tile<9, V>, tile<10, V>, tile<11, V>, tile<12, V>};
  return all[rows - 1];
}

// The sums of a block of the errors' channels, over some items.
struct Sums {
  Sums(int64_t rows, int64_t wide)
      : words(4 * rows * wide), errors(static_cast<size_t>(wide)), rows(rows), wide(wide) {}

  const Room words;             // of each row, a tap of an input channel: `wide` 32-bit sums
  std::vector<int32_t> errors;  // sums of the errors themselves
  std::vector<int64_t> carried;  // what 32 bits would not have held, by channel and row
  int64_t rows, wide, terms = 0;

  int32_t* data() const { return reinterpret_cast<int32_t*>(words.data); }

  void clear() {
    std::memset(words.data, 0, static_cast<size_t>(4 * rows * wide));
    std::fill(errors.begin(), errors.end(), 0);
    terms = 0;
  }

  // Calls each(o, row, true sums of 16 rows from this one on) for so many channels.
  template <class Each>
  VNNI_INLINE void each(int64_t channels, Each&& each) const {
    for (int64_t row = 0; row < rows; row += LANES)
      for (int64_t o = 0; o < channels; o += LANES) {
        const __m512i less = _mm512_slli_epi32(_mm512_loadu_si512(errors.data() + o), 7);
        __m512i x[LANES];
        for (int64_t r = 0; r < LANES; r++)
          x[r] = row + r < rows ? _mm512_sub_epi32(_mm512_loadu_si512(data() + (row + r) * wide + o), less)
                                : _mm512_setzero_si512();
        transpose(x);
        for (int64_t r = 0; r < std::min<int64_t>(LANES, channels - o); r++) each(o + r, row, x[r]);
      }
  }

  VNNI void add_to(int64_t* to, int64_t channels) const {
    each(channels, [&](int64_t o, int64_t row, __m512i x) VNNI {
      int32_t some[LANES];
      _mm512_storeu_si512(some, x);
      for (int64_t r = 0; r < std::min<int64_t>(LANES, rows - row); r++) to[o * rows + row + r] += some[r];
    });
  }

  // Makes room for more terms.
  void carry(int64_t channels) {
    carried.resize(static_cast<size_t>(channels * rows));
    add_to(carried.data(), channels);
    clear();
  }
};

class Summing {
 public:
  Summing(const WeightSums& s, const Threads& threads)
      : s_(s),
        items_(s.axes, s.batch, FEW,
               std::min(MOST_TERMS, std::max<int64_t>(SLACK, LAID_BYTES / s.inputs)), threads.count),
        layout_(items_.layout(SLACK)) {
    const std::vector<int64_t> taps = layout_.taps(s.axes);
    for (int64_t i = 0; i < s.inputs; i++)
      for (const int64_t tap : taps) rows_.push_back(tap + i * layout_.channel());
    const int64_t vectors = (s.outputs + LANES - 1) / LANES;
    wide_ = std::min(vectors * LANES, std::max(WIDE, SUM_BYTES / (4 * count()) / WIDE * WIDE));
    blocks_ = (s.outputs + wide_ - 1) / wide_;
    const int64_t needed = (threads.count + s.groups * blocks_ - 1) / (s.groups * blocks_);
    parts_ = std::min(items_.count(), needed);
    if (parts_ > 1) totals_.assign(static_cast<size_t>(s.groups * s.outputs * count()), 0);
  }

  void run(const Threads& threads) {
    const int64_t positions = s_.axes[0].positions * s_.axes[1].positions * s_.axes[2].positions;
    const int64_t each = s_.batch * positions * count() * wide_ / parts_ + 1;
    threads.run(s_.groups * blocks_ * parts_, each,
                [this](int64_t begin, int64_t end) { work(begin, end); });
    for (size_t i = 0; i < totals_.size(); i++) s_.out[i] = value(totals_[i]);
  }

 private:
  int64_t count() const { return static_cast<int64_t>(rows_.size()); }
  float value(int64_t sum) const { return static_cast<float>(static_cast<double>(sum) * s_.scale); }

  // Units: groups, blocks of the errors' channels, parts of the items.
  void work(int64_t begin, int64_t end) {
    const Item whole = items_.at(0);
    const int64_t most = up(layout_.places(whole.axes, whole.samples), 64);
    const int64_t bytes = s_.inputs * layout_.channel();
    const Room inputs(bytes), errors(most * wide_), plane(most * LANES);
    Sums sums(count(), wide_);
    bool zeros = false;  // between the codes
    for (int64_t unit = begin; unit < end; unit++) {
      const int64_t part = unit % parts_, block = unit / parts_ % blocks_, group = unit / parts_ / blocks_;
      const int64_t channels = std::min(wide_, s_.outputs - block * wide_);
      const int64_t channel = group * s_.outputs + block * wide_;
      sums.clear();
      sums.carried.clear();
      for (int64_t i = items_.count() * part / parts_; i < items_.count() * (part + 1) / parts_; i++) {
        const Item item = items_.at(i);
        const Extent(&a)[DIMENSIONS] = item.axes;
        const int64_t terms = item.samples * a[0].positions * a[1].positions * a[2].positions;
        if (sums.terms + terms > MOST_TERMS) sums.carry(channels);
        sums.terms += terms;
        if (!zeros || items_.bands > 1) std::memset(inputs.data, 0x80, static_cast<size_t>(bytes));
        zeros = true;
        const Laying laying(s_.in, item, layout_);
        laying.bytes(group * s_.inputs, s_.inputs, static_cast<char>(0x80), inputs.data);
        lay_errors(item, channel, channels, plane.data, errors.data, sums.errors.data());
        const int64_t fours = (layout_.places(a, item.samples) + 3) / 4;
        add(inputs.data, errors.data, fours, (channels + LANES - 1) / LANES, sums.data());
      }
      finish(sums, channel, channels);
    }
  }

  // Lays fours of places of each channel, and adds up the errors.
  VNNI void lay_errors(const Item& item, int64_t channel, int64_t channels, char* plane, char* to,
                       int32_t* sums) const {
    Item errors = item;
    const int64_t places = up(layout_.places(item.axes, item.samples), 64);
    for (int d = 0; d < DIMENSIONS; d++) {
      const int64_t begin = d == items_.axis ? item.begin : 0;
      errors.axes[d] = {item.axes[d].positions, 1, 1, 1, -begin, begin + item.axes[d].positions};
    }
    const Laying laying(s_.e, errors, layout_.alone(places));
    const int64_t vectors = (channels + LANES - 1) / LANES, step = 64 * vectors;
    const __m512i ones = _mm512_set1_epi8(1);
    std::memset(plane, 0, static_cast<size_t>(LANES * places));
    for (int64_t v = 0; v < vectors; v++) {
      const int64_t some = std::min<int64_t>(LANES, channels - LANES * v);
      if (some < LANES) std::memset(plane, 0, static_cast<size_t>(LANES * places));
      laying.bytes(channel + LANES * v, some, 0, plane);
      __m512i sum = _mm512_loadu_si512(sums + LANES * v);
      for (int64_t p = 0; p < places; p += 64) {
        __m512i x[LANES];
        for (int r = 0; r < LANES; r++) x[r] = _mm512_loadu_si512(plane + r * places + p);
        transpose(x);
        char* at = to + p / 4 * step + 64 * v;
#pragma GCC unroll 16
        for (int q = 0; q < LANES; q++) {
          _mm512_storeu_si512(at + q * step, x[q]);
          sum = _mm512_dpbusd_epi32(sum, ones, x[q]);
        }
      }
      _mm512_storeu_si512(sums + LANES * v, sum);
    }
  }

  void add(const char* in, const char* errors, int64_t fours, int64_t vectors, int32_t* sums) const {
    for (int64_t v = 0; v < vectors; v += ACROSS)
      for (int64_t row = 0; row < count(); row += ROWS) {
        const int64_t rows = std::min<int64_t>(ROWS, count() - row);
        const Tile tile = vectors - v > 1 ? tile_of<2>(rows) : tile_of<1>(rows);
        tile(in, rows_.data() + row, errors + 64 * v, 64 * vectors, fours,
             sums + row * wide_ + LANES * v, wide_);
      }
  }

  VNNI void finish(Sums& sums, int64_t channel, int64_t channels) {
    const int64_t at = channel * count();
    if (parts_ > 1) {
      const std::lock_guard<std::mutex> alone(mutex_);
      sums.add_to(totals_.data() + at, channels);
      for (size_t i = 0; i < sums.carried.size(); i++)
        totals_[static_cast<size_t>(at) + i] += sums.carried[i];
    } else if (!sums.carried.empty()) {
      sums.carry(channels);
      for (size_t i = 0; i < sums.carried.size(); i++)
        s_.out[at + static_cast<int64_t>(i)] = value(sums.carried[i]);
    } else {
      const Scale scale(s_.scale);
      sums.each(channels, [&](int64_t o, int64_t row, __m512i x) VNNI {
        _mm512_mask_storeu_ps(s_.out + at + o * count() + row, lanes(count() - row), scale.of(x));
      });
    }
  }

  const WeightSums& s_;
  const Items items_;
  const Layout layout_;
  std::vector<int64_t> rows_;  // bytes to the codes of each input channel and tap
  int64_t wide_, blocks_;      // channels of the errors in a block, blocks
  int64_t parts_;              // of the items, each summed apart
  std::vector<int64_t> totals_;
  std::mutex mutex_;
};

}  // namespace

void sum_codes(const WeightSums& s, const Threads& threads) { Summing(s, threads).run(threads); }

}  // namespace limprec

#else

namespace limprec {

void sum_codes(const WeightSums&, const Threads&) {}

}  // namespace limprec

#endif
