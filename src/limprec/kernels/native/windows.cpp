// The operator torch.ops.limprec.windows: the windows of a convolution of bytes, one row a position.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstring>
#include <vector>

namespace limprec {
namespace {

using torch::stable::Tensor;

constexpr int64_t EACH = 1 << 15;  // bytes of windows that are worth another thread

// One dimension: `positions` windows of `count` taps over a row of zeros in which `size` codes begin
// at `start`. `from` is the source's stride.
struct Taps {
  int64_t positions, count, stride, step, start;
  int64_t size, from;

  int64_t length() const { return (positions - 1) * stride + (count - 1) * step + 1; }
  // The codes that lie in the row.
  int64_t first() const { return std::max<int64_t>(0, -start); }
  int64_t last() const { return std::min(size, length() - start); }
  bool trivial() const {
    return count == 1 && stride == 1 && start == 0 && positions == size;
  }
};

// Copies `times` runs of bytes, `ahead` and `apart` bytes from one to the next. A run that is known
// when this is compiled becomes a few vector moves.
template <int RUN>
void copy_runs(char* to, const char* from, int64_t times, int64_t apart, int64_t ahead, int64_t run) {
  const size_t bytes = RUN != 0 ? RUN : static_cast<size_t>(run);
  for (int64_t i = 0; i < times; i++) std::memcpy(to + i * apart, from + i * ahead, bytes);
}

auto copier(int64_t run) {
  switch (run) {
    case 8: return copy_runs<8>;
    case 9: return copy_runs<9>;
    case 16: return copy_runs<16>;
    case 32: return copy_runs<32>;
    case 48: return copy_runs<48>;
    case 64: return copy_runs<64>;
    case 96: return copy_runs<96>;
    case 128: return copy_runs<128>;
    case 192: return copy_runs<192>;
    default: return copy_runs<0>;
  }
}

inline uint64_t load(const char* from) {
  uint64_t word;
  std::memcpy(&word, from, 8);
  return word;
}

// Swaps the bits of a under `mask` with those of b that lie `shift` below.
inline void swap_blocks(uint64_t& a, uint64_t& b, int shift, uint64_t mask) {
  const uint64_t moved = ((a >> shift) ^ b) & mask;
  b ^= moved;
  a ^= moved << shift;
}

// Transposes eight rows of eight bytes: blocks of 4, then of 2, then bytes.
inline void transpose8(uint64_t (&rows)[8]) {
  for (int i = 0; i < 4; i++) swap_blocks(rows[i], rows[i + 4], 32, 0x00000000ffffffffull);
  for (int i : {0, 1, 4, 5}) swap_blocks(rows[i], rows[i + 2], 16, 0x0000ffff0000ffffull);
  for (int i : {0, 2, 4, 6}) swap_blocks(rows[i], rows[i + 1], 8, 0x00ff00ff00ff00ffull);
}

// to[i * channels + c] = from[c * apart + i]
void transpose(char* to, const char* from, int64_t count, int64_t channels, int64_t apart) {
  int64_t c = 0;
  for (; c + 8 <= channels; c += 8) {
    int64_t i = 0;
    for (; i + 8 <= count; i += 8) {
      uint64_t rows[8];
      for (int r = 0; r < 8; r++) rows[r] = load(from + (c + r) * apart + i);
      transpose8(rows);
      for (int r = 0; r < 8; r++) std::memcpy(to + (i + r) * channels + c, &rows[r], 8);
    }
    for (; i < count; i++)
      for (int r = 0; r < 8; r++) to[i * channels + c + r] = from[(c + r) * apart + i];
  }
  for (; c < channels; c++)
    for (int64_t i = 0; i < count; i++) to[i * channels + c] = from[c * apart + i];
}

struct Layout {
  Taps taps[3];
  int64_t channels, between;  // how many, and their stride in the source
};

// One sample, channels last, among its zeros.
void lay_out(const Layout& l, const char* from, char* rows) {
  const Taps &z = l.taps[0], &y = l.taps[1], &x = l.taps[2];
  const int64_t count = x.last() - x.first();
  if (count <= 0) return;
  for (int64_t i = z.first(); i < z.last(); i++)
    for (int64_t j = y.first(); j < y.last(); j++) {
      char* to = rows + (((i + z.start) * y.length() + j + y.start) * x.length() + x.first() +
                         x.start) * l.channels;
      const char* source = from + i * z.from + j * y.from + x.first() * x.from;
      if (l.between == 1 && x.from == l.channels) {
        std::memcpy(to, source, static_cast<size_t>(count * l.channels));
      } else if (x.from == 1) {
        transpose(to, source, count, l.channels, l.between);
      } else {
        for (int64_t k = 0; k < count; k++)
          for (int64_t c = 0; c < l.channels; c++)
            to[k * l.channels + c] = source[k * x.from + c * l.between];
      }
    }
}

void gather(const Layout& l, const char* rows, char* to) {
  const Taps &z = l.taps[0], &y = l.taps[1], &x = l.taps[2];
  // Taps that are neighbours are copied together.
  const bool together = x.step == 1 || x.count == 1;
  const int64_t runs = together ? 1 : x.count, run = (together ? x.count : 1) * l.channels;
  const int64_t window = z.count * y.count * x.count * l.channels;
  const auto copy = copier(run);
  for (int64_t a = 0; a < z.positions; a++)
    for (int64_t b = 0; b < y.positions; b++, to += x.positions * window) {
      char* column = to;
      for (int64_t i = 0; i < z.count; i++)
        for (int64_t j = 0; j < y.count; j++) {
          const int64_t row = (a * z.stride + i * z.step) * y.length() + b * y.stride + j * y.step;
          for (int64_t k = 0; k < runs; k++, column += run)
            copy(column, rows + (row * x.length() + k * x.step) * l.channels, x.positions, window,
                 x.stride * l.channels, run);
        }
    }
}

void windows(Tensor codes, Tensor out, Tensor taps) {
  using torch::headeronly::ScalarType;
  STD_TORCH_CHECK(codes.dim() == 5 && codes.scalar_type() == ScalarType::Char &&
                      out.scalar_type() == ScalarType::Char && out.is_contiguous(),
                  "limprec: int8 tensors are needed, (B, C, D, H, W) and a contiguous result");
  STD_TORCH_CHECK(taps.scalar_type() == ScalarType::Long && taps.is_contiguous() &&
                      taps.numel() == 15,
                  "limprec: five int64 numbers for each dimension are needed");
  Layout l;
  l.channels = codes.size(1);
  l.between = codes.stride(1);
  const int64_t* numbers = static_cast<const int64_t*>(taps.const_data_ptr());
  int64_t each = l.channels, padded = l.channels;
  bool trivial = true;
  for (int d = 0; d < 3; d++, numbers += 5) {
    l.taps[d] = {numbers[0], numbers[1], numbers[2], numbers[3],
                 numbers[4], codes.size(d + 2), codes.stride(d + 2)};
    each *= numbers[0] * numbers[1];
    padded *= l.taps[d].length();
    trivial = trivial && l.taps[d].trivial();
  }
  const int64_t batch = codes.size(0), apart = codes.stride(0);
  STD_TORCH_CHECK(out.numel() == batch * each, "limprec: the result has another size");
  if (out.numel() == 0) return;
  const char* from = static_cast<const char*>(codes.const_data_ptr());
  char* to = static_cast<char*>(out.mutable_data_ptr());
  const auto work = [&](int64_t begin, int64_t end) {
    std::vector<char> rows(trivial ? 0 : static_cast<size_t>(padded));
    for (int64_t n = begin; n < end; n++) {
      if (trivial) {
        lay_out(l, from + n * apart, to + n * each);
      } else {
        lay_out(l, from + n * apart, rows.data());  // writes the same places for each sample
        gather(l, rows.data(), to + n * each);
      }
    }
  };
  if (batch == 1 || batch * each <= EACH) return work(0, batch);
  torch::stable::parallel_for(0, batch, std::max<int64_t>(1, EACH / each), work);
}

}  // namespace
}  // namespace limprec

STABLE_TORCH_LIBRARY_FRAGMENT(limprec, m) {
  m.def("windows(Tensor codes, Tensor(a!) out, Tensor taps) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(limprec, CPU, m) {
  m.impl("windows", TORCH_BOX(&limprec::windows));
}
