// How the codes of a few samples lie in scratch memory, so that a convolution is a sum of shifts.
//
// Places are counted flat: a row follows the one above, a sample the one before, and they share the
// zeros between them. Position p of a result and tap k meet at place p + k where strides are 1;
// other strides cut a dimension into phases, with a plane of places for each. There are places
// between the positions: their sums nobody wants.
#pragma once

#include <stdint.h>

#include <vector>

#include "codes_conv.h"

namespace limprec {

struct Layout {
  int64_t stride[DIMENSIONS];
  int64_t apart[DIMENSIONS];               // places from one position to the next
  int64_t sample;                          // places from one sample to the next
  int64_t plane;                           // places in a plane, with those beyond the last sample
  std::vector<int64_t> slots[DIMENSIONS];  // which plane a phase is in, -1 where no tap meets it
  int64_t used[DIMENSIONS];                // how many do

  Layout() = default;
  Layout(const Extent (&axes)[DIMENSIONS], int64_t samples, int64_t slack);
  // The same places with one plane alone.
  Layout alone(int64_t places) const;

  int64_t planes() const { return used[0] * used[1] * used[2]; }
  int64_t channel() const { return planes() * plane; }
  // Where each tap is, planes counted in; the last dimension's are counted fastest.
  std::vector<int64_t> taps(const Extent (&axes)[DIMENSIONS]) const;
  // How many places there are up to the last position of some samples.
  int64_t places(const Extent (&axes)[DIMENSIONS], int64_t samples) const;
};

// What is computed in one go: some samples, or a band of positions of one of them, along the first
// dimension that has more than one.
struct Item {
  int64_t sample, samples, begin;
  Extent axes[DIMENSIONS];
};

// A batch, cut into items of at most `most` positions each, unless there are more in what is across
// a band; of about `few` at least where samples are small, but some for each thread.
struct Items {
  Items(const Extent (&axes)[DIMENSIONS], int64_t batch, int64_t few, int64_t most, int64_t threads);

  Extent axes[DIMENSIONS];
  int64_t batch, samples;     // all, of an item
  int64_t axis, band, bands;  // the dimension of bands, positions of one along it, bands of a sample

  int64_t count() const { return (batch + samples - 1) / samples * bands; }
  Item at(int64_t number) const;
  // Of any item, with some places more.
  Layout layout(int64_t slack) const;
};

// Brings the codes of an item to their places; places that hold none are left as they are.
class Laying {
 public:
  Laying(const Codes& in, const Item& item, const Layout& layout);

  // Four neighbouring channels, or less, to planes of fours of bytes, as unsigned numbers: code + 128.
  void fours(int64_t channel, int64_t channels, char* to) const;
  // Channels to planes of bytes; `flip` is xored.
  void bytes(int64_t channel, int64_t channels, char flip, char* to) const;

 private:
  // A row along the last dimension: where it begins in the source, and the place of its coordinate 0
  // in the first of its planes.
  struct Row {
    int64_t from, place;
  };
  // The lanes of 16 neighbours that are in one phase.
  struct Share {
    uint16_t taken, many;  // lanes, and as many first ones
    int64_t to;            // where the first goes, from the place of the row
  };

  void deal(int64_t channel, int64_t channels, char flip, char* to) const;

  const int8_t* data_;
  int64_t between_, step_;  // the source's strides of channels and of the last dimension
  int64_t start_, count_;   // of the codes of a row
  int64_t stride_, plane_, apart_;
  std::vector<int64_t> slots_;
  std::vector<Row> rows_;
  std::vector<Share> shares_;   // of each 16 neighbours of a row
  std::vector<int64_t> chunks_;  // where the shares of each begin, and the end
};

}  // namespace limprec
