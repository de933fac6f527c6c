#include "codes_conv_layout.h"

#include <cstring>

#include "vnni.h"

namespace limprec {
namespace {

int64_t over(int64_t n, int64_t d) { return (n + d - 1) / d; }

// How far apart rows lie, in strides: as near as can be, so that where the taps of one reach into the
// next there are zeros.
int64_t pitch(const Extent& a) {
  const int64_t begin = a.first() + a.start, end = a.last() + a.start;
  if (end <= begin) return std::max(a.positions, over(a.length(), a.stride));
  return std::max({a.positions, over(end, a.stride), over(a.length() - begin, a.stride)});
}

}  // namespace

Layout::Layout(const Extent (&axes)[DIMENSIONS], int64_t samples, int64_t slack) {
  int64_t next = 1, reach = 0;
  for (int d = DIMENSIONS - 1; d >= 0; d--) {
    const Extent& a = axes[d];
    stride[d] = a.stride;
    apart[d] = next;
    next *= pitch(a);
    reach += (a.count - 1) * a.step / a.stride * apart[d];
    slots[d].assign(static_cast<size_t>(a.stride), -1);
    used[d] = 0;
    for (int64_t k = 0; k < a.count; k++) {
      int64_t& slot = slots[d][static_cast<size_t>(k * a.step % a.stride)];
      if (slot < 0) slot = used[d]++;
    }
  }
  sample = next;
  plane = samples * sample + reach + slack;
  plane = (plane + 15) / 16 | 1;  // an odd number of cache lines, so that planes do not collide
  plane *= 16;
}

Layout Layout::alone(int64_t places) const {
  Layout other = *this;
  for (int d = 0; d < DIMENSIONS; d++) {
    other.stride[d] = other.used[d] = 1;
    other.slots[d].assign(1, 0);
  }
  other.plane = places;
  return other;
}

std::vector<int64_t> Layout::taps(const Extent (&axes)[DIMENSIONS]) const {
  std::vector<int64_t> places{0}, planes{0};
  for (int d = 0; d < DIMENSIONS; d++) {
    std::vector<int64_t> finer, within;
    for (size_t i = 0; i < places.size(); i++)
      for (int64_t k = 0; k < axes[d].count; k++) {
        const int64_t at = k * axes[d].step;
        finer.push_back(places[i] + at / stride[d] * apart[d]);
        within.push_back(planes[i] * used[d] + slots[d][static_cast<size_t>(at % stride[d])]);
      }
    places = std::move(finer), planes = std::move(within);
  }
  for (size_t i = 0; i < places.size(); i++) places[i] += planes[i] * plane;
  return places;
}

int64_t Layout::places(const Extent (&axes)[DIMENSIONS], int64_t samples) const {
  int64_t last = (samples - 1) * sample;
  for (int d = 0; d < DIMENSIONS; d++) last += (axes[d].positions - 1) * apart[d];
  return last + 1;
}

Items::Items(const Extent (&from)[DIMENSIONS], int64_t batch, int64_t few, int64_t most,
             int64_t threads)
    : batch(batch), samples(1), axis(0), bands(1) {
  std::copy(from, from + DIMENSIONS, axes);
  while (axis < DIMENSIONS - 1 && axes[axis].positions == 1) axis++;
  const int64_t positions = axes[0].positions * axes[1].positions * axes[2].positions;
  const int64_t rows = axes[axis].positions;
  band = rows;
  if (positions > most || (batch < threads && positions > few)) {
    const int64_t shared = std::min(over(positions, few), over(threads, batch));
    const int64_t wanted = std::max(over(positions, most), shared);
    band = std::max<int64_t>(1, std::min(over(rows, std::min(rows, wanted)), most / (positions / rows)));
    bands = over(rows, band);
  } else {
    samples = std::max<int64_t>(1, std::min(few / positions, over(batch, threads)));
  }
}

Layout Items::layout(int64_t slack) const {
  Item item = at(0);
  if (bands > 1) {  // others may begin, or end, with codes
    Extent& a = item.axes[axis];
    a.start = 0, a.size = a.length();
  }
  return {item.axes, item.samples, slack};
}

Item Items::at(int64_t number) const {
  Item item{number / bands * samples, samples, number % bands * band, {}};
  item.samples = std::min(samples, batch - item.sample);
  std::copy(axes, axes + DIMENSIONS, item.axes);
  Extent& a = item.axes[axis];
  a.positions = std::min(band, a.positions - item.begin);
  a.start -= item.begin * a.stride;
  return item;
}

#if defined(LIMPREC_X86)

namespace {

// At most 16 neighbours of at most four channels: each lane holds the channels of one.
VNNI_INLINE __m512i load_fours(const int8_t* from, int64_t channel, int64_t step, int64_t channels,
                               int64_t count) {
  if (step == 1) {
    const __mmask16 there = lanes(count);
    __m128i rows[4];
    for (int r = 0; r < 4; r++)
      rows[r] = _mm_maskz_loadu_epi8(r < channels ? there : 0, from + r * channel);
    __m512i x = _mm512_castsi128_si512(rows[0]);
    x = _mm512_inserti32x4(x, rows[1], 1);
    x = _mm512_inserti32x4(x, rows[2], 2);
    x = _mm512_inserti32x4(x, rows[3], 3);
    const __m512i quads = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_set4_epi32(0x0f0b0703, 0x0e0a0602, 0x0d090501, 0x0c080400);
    return _mm512_shuffle_epi8(_mm512_permutexvar_epi32(quads, x), bytes);
  }
  alignas(64) char fours[64] = {};
  count = std::min<int64_t>(count, LANES);
  if (channel == 1 && channels == 4) {
    for (int64_t i = 0; i < count; i++) std::memcpy(fours + 4 * i, from + i * step, 4);
  } else {
    for (int64_t i = 0; i < count; i++)
      for (int64_t r = 0; r < channels; r++)
        fours[4 * i + r] = static_cast<char>(from[i * step + r * channel]);
  }
  return _mm512_load_si512(fours);
}

// A row of bytes.
VNNI_INLINE void copy(const int8_t* from, int64_t count, __m256i change, char* to) {
  int64_t i = 0;
  for (; i + 32 <= count; i += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + i), _mm256_xor_si256(change, bytes));
  }
  if (i == count) return;
  const __mmask32 there = (1u << (count - i)) - 1;
  const __m256i bytes = _mm256_maskz_loadu_epi8(there, from + i);
  _mm256_mask_storeu_epi8(to + i, there, _mm256_xor_si256(change, bytes));
}

}  // namespace

Laying::Laying(const Codes& in, const Item& item, const Layout& l)
    : between_(in.channel), step_(in.axis[2]), stride_(l.stride[2]), plane_(l.plane),
      apart_(l.channel()), slots_(l.slots[2]) {
  const Extent &z = item.axes[0], &y = item.axes[1], &x = item.axes[2];
  data_ = in.data + item.sample * in.sample + x.first() * step_;
  start_ = x.first() + x.start, count_ = x.last() - x.first();
  for (int64_t n = 0; n < item.samples; n++)
    for (int64_t i = z.first(); i < z.last(); i++) {
      const int64_t a = i + z.start, high = l.slots[0][static_cast<size_t>(a % l.stride[0])];
      for (int64_t j = y.first(); j < y.last() && high >= 0; j++) {
        const int64_t b = j + y.start, low = l.slots[1][static_cast<size_t>(b % l.stride[1])];
        if (low < 0) continue;
        const int64_t place = n * l.sample + a / l.stride[0] * l.apart[0] + b / l.stride[1] * l.apart[1];
        rows_.push_back({n * in.sample + i * in.axis[0] + j * in.axis[1],
                         place + (high * l.used[1] + low) * l.used[2] * plane_});
      }
    }
  unsigned comb = 0;
  for (int64_t i = 0; i < LANES; i += stride_) comb |= 1u << i;
  for (int64_t i = 0; i < count_; i += LANES) {
    chunks_.push_back(static_cast<int64_t>(shares_.size()));
    for (int64_t phase = 0; phase < stride_; phase++) {
      const int64_t slot = slots_[static_cast<size_t>(phase)], at = start_ + i;
      const int64_t skip = (phase + stride_ - at % stride_) % stride_;
      if (slot < 0 || skip >= std::min<int64_t>(LANES, count_ - i)) continue;
      const unsigned taken = comb << skip & lanes(count_ - i);
      shares_.push_back({static_cast<uint16_t>(taken), lanes(__builtin_popcount(taken)),
                         slot * plane_ + (at + skip) / stride_});
    }
  }
  chunks_.push_back(static_cast<int64_t>(shares_.size()));
}

VNNI void Laying::fours(int64_t channel, int64_t channels, char* to) const {
  const __m512i flip = _mm512_set1_epi8(static_cast<char>(0x80));
  const int64_t count = count_, between = between_, step = step_;
  const bool whole = stride_ == 1;
  const int64_t* chunks = chunks_.data();
  const Share* shares = shares_.data();
  for (const Row& row : rows_) {
    const int8_t* from = data_ + channel * between + row.from;
    char* place = to + 4 * row.place;
    for (int64_t i = 0, chunk = 0; i < count; i += LANES, chunk++) {
      const __m512i codes = load_fours(from + i * step, between, step, channels, count - i);
      const __m512i fours = _mm512_xor_si512(flip, codes);
      for (int64_t s = chunks[chunk]; s < chunks[chunk + 1]; s++)
        _mm512_mask_storeu_epi32(place + 4 * shares[s].to, shares[s].many,
                                 whole ? fours : _mm512_maskz_compress_epi32(shares[s].taken, fours));
    }
  }
}

// Every other byte goes to another plane.
VNNI void Laying::deal(int64_t channel, int64_t channels, char flip, char* to) const {
  const __m512i change = _mm512_set1_epi8(flip);
  const int64_t count = count_;
  const auto odd = static_cast<size_t>(start_ % 2);
  const int64_t slots[] = {slots_[odd], slots_[1 - odd]};
  const int64_t places[] = {slots[0] * plane_ + start_ / 2, slots[1] * plane_ + (start_ + 1) / 2};
  for (int64_t c = 0; c < channels; c++, to += apart_)
    for (const Row& row : rows_) {
      const int8_t* from = data_ + (channel + c) * between_ + row.from;
      for (int64_t i = 0; i < count; i += 64) {
        const __m512i codes = _mm512_maskz_loadu_epi8(first(count - i), from + i);
        const __m512i bytes = _mm512_xor_si512(change, codes);
        const int64_t some = std::min<int64_t>(64, count - i);
        char* place = to + row.place + i / 2;
        if (slots[0] >= 0)
          _mm256_mask_storeu_epi8(place + places[0], static_cast<__mmask32>(first((some + 1) / 2)),
                                  _mm512_cvtepi16_epi8(bytes));
        if (slots[1] >= 0)
          _mm256_mask_storeu_epi8(place + places[1], static_cast<__mmask32>(first(some / 2)),
                                  _mm512_cvtepi16_epi8(_mm512_srli_epi16(bytes, 8)));
      }
    }
}

VNNI void Laying::bytes(int64_t channel, int64_t channels, char flip, char* to) const {
  const __m512i change = _mm512_set1_epi8(flip);
  const int64_t count = count_, between = between_, step = step_, apart = apart_;
  if (step == 1 && stride_ == 1) {
    for (int64_t c = 0; c < channels; c++)
      for (const Row& row : rows_)
        copy(data_ + (channel + c) * between + row.from, count, _mm512_castsi512_si256(change),
             to + c * apart + row.place + start_);
    return;
  }
  if (step == 1 && stride_ == 2) return deal(channel, channels, flip, to);
  const int64_t* chunks = chunks_.data();
  for (int64_t c = 0; c < channels; c += 4) {
    const int64_t some = std::min<int64_t>(4, channels - c);
    for (const Row& row : rows_) {
      const int8_t* from = data_ + (channel + c) * between + row.from;
      char* place = to + c * apart + row.place;
      for (int64_t i = 0, chunk = 0; i < count; i += LANES, chunk++) {
        const __m512i codes = load_fours(from + i * step, between, step, some, count - i);
        for (int64_t s = chunks[chunk]; s < chunks[chunk + 1]; s++) {
          const Share& share = shares_[static_cast<size_t>(s)];
          const __m512i packed = _mm512_maskz_compress_epi32(share.taken, _mm512_xor_si512(change, codes));
          for (int64_t r = 0; r < some; r++)
            _mm512_mask_cvtepi32_storeu_epi8(place + r * apart + share.to, share.many,
                                             _mm512_srl_epi32(packed, _mm_cvtsi64_si128(8 * r)));
        }
      }
    }
  }
}

#endif

}  // namespace limprec
