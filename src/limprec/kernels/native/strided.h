// Walking tensors whose memory is not in row-major order, as channels-last ones: straight runs are
// gathered into a small buffer, rounded there, each with the random bits of its row-major index,
// and scattered.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <vector>

namespace limprec {

struct Dim {
  int64_t size, from, to;  // strides of source and target, in elements
  int64_t index;           // stride of the row-major index
};
using Dims = std::vector<Dim>;

// The dimensions of a tensor, neighbours joined that both layouts run through in one stride; a flat
// tensor leaves one dimension of strides 1. With any_order they follow the target's memory instead
// of the row-major index.
inline Dims join(const int64_t* sizes, const int64_t* from, const int64_t* to, int64_t rank,
                 bool any_order) {
  Dims all, joined;
  int64_t index = 1;
  for (int64_t i = rank - 1; i >= 0; index *= sizes[i--])
    if (sizes[i] != 1) all.push_back({sizes[i], from[i], to[i], index});
  std::reverse(all.begin(), all.end());
  if (any_order)
    std::stable_sort(all.begin(), all.end(), [](const Dim& a, const Dim& b) { return a.to > b.to; });
  for (const Dim& d : all) {
    Dim* outer = joined.empty() ? nullptr : &joined.back();
    if (outer != nullptr && outer->from == d.size * d.from && outer->to == d.size * d.to)
      *outer = {outer->size * d.size, d.from, d.to, d.index};
    else
      joined.push_back(d);
  }
  if (joined.empty()) joined.push_back({1, 1, 1, 1});
  return joined;
}

inline bool is_flat(const Dims& dims) {
  return dims.size() == 1 && dims[0].from == 1 && dims[0].to == 1;
}

// How many elements the source or the target reaches over. Strides are not negative in PyTorch.
inline int64_t reach(const Dims& dims, int64_t Dim::*stride) {
  int64_t last = 0;
  for (const Dim& d : dims) last += (d.size - 1) * d.*stride;
  return last + 1;
}

// The straight runs of n elements from `begin` on, in the order of dense memory, whose places go by
// one of the strides; it is 1 along the last dimension. Calls run(how far from begin, place, length).
template <class Run>
void each_run(const Dims& dims, int64_t Dim::*stride, int64_t begin, int64_t n, const Run& run) {
  const int64_t wide = dims.back().size;
  int64_t inside = begin % wide, number = begin / wide;
  for (int64_t at = 0, length; at < n; at += length, number++, inside = 0) {
    int64_t rest = number, place = inside;
    for (size_t i = dims.size() - 1; i-- > 0; rest /= dims[i].size)
      place += rest % dims[i].size * dims[i].*stride;
    length = std::min(wide - inside, n - at);
    run(at, place, length);
  }
}

// Whether surely no two elements of the target share a place.
inline bool is_injective(Dims dims) {
  std::sort(dims.begin(), dims.end(), [](const Dim& a, const Dim& b) { return a.to < b.to; });
  int64_t inside = 1;  // what the dimensions before this one reach over
  for (const Dim& d : dims) {
    if (d.to < inside) return false;
    inside += (d.size - 1) * d.to;
  }
  return true;
}

// The straight runs along the last dimension, in pieces so short that the cache lines that one of
// them touches are still there for its neighbours; they come in the order of the target's memory.
class Runs {
 public:
  static constexpr int64_t LENGTH = 128;

  explicit Runs(const Dims& dims) : inner_(dims.back()), outer_(dims.begin(), dims.end() - 1) {
    const int64_t pieces = (inner_.size + LENGTH - 1) / LENGTH;
    const Dim piece{pieces, inner_.from * LENGTH, inner_.to * LENGTH, LENGTH};
    const auto place = std::find_if(outer_.begin(), outer_.end(),
                                    [&](const Dim& d) { return d.to < inner_.to; });
    piece_ = place - outer_.begin();
    outer_.insert(place, piece);
    for (const Dim& d : outer_) count_ *= d.size;
  }

  int64_t count() const { return count_; }
  const Dim& inner() const { return inner_; }

  // Calls run(length, from, to, index) for the runs first to last; the last three are offsets.
  template <class Run>
  void each(int64_t first, int64_t last, const Run& run) const {
    for (int64_t number = first; number < last; number++) {
      int64_t rest = number, from = 0, to = 0, index = 0, length = inner_.size;
      for (int64_t i = static_cast<int64_t>(outer_.size()) - 1; i >= 0; i--) {
        const Dim& d = outer_[static_cast<size_t>(i)];
        const int64_t at = rest % d.size;
        rest /= d.size;
        from += at * d.from, to += at * d.to, index += at * d.index;
        if (i == piece_) length = std::min(LENGTH, inner_.size - at * LENGTH);
      }
      run(length, from, to, index);
    }
  }

 private:
  Dim inner_;
  Dims outer_;
  int64_t piece_, count_ = 1;
};

}  // namespace limprec
