// Products of int8 matrices that leave as float32: sums in 32 bits, exact, times one scale.
#pragma once

#include <stdint.h>

namespace limprec {

// An int8 matrix; one of its strides is 1.
struct Matrix {
  const int8_t* data;
  int64_t row, column;  // strides

  const int8_t* at(int64_t i, int64_t j) const { return data + i * row + j * column; }
};

// A batch of products: out[i] = scale * (a[i] @ b[i]) + bias.
struct CodesProduct {
  Matrix a, b;
  const int64_t* a_starts;  // where each product's matrix starts, from the data of `a`
  const int64_t* b_starts;
  const int64_t* out_starts;
  float* out;
  int64_t stride;           // from one row of out to the next; its rows have no gaps
  const float* bias;        // one number a column, or null
  int32_t* sums;            // of the rows of each a, or null
  double scale;
  int64_t batch, rows, length, columns;
};

constexpr int64_t MOST_TERMS = 131071;  // products of -128 and -128 that 32 bits can add

// Whether this CPU has what multiply_codes is made of (AVX-512 VNNI).
bool has_codes_matmul();

// Into how many blocks of columns and tiles of rows a product is cut.
int64_t codes_across(const CodesProduct& p);
int64_t codes_down(const CodesProduct& p);

// Items [begin, end) of all: batch x blocks of columns x tiles of rows, the last counted fastest.
void multiply_codes(const CodesProduct& p, int64_t begin, int64_t end);

}  // namespace limprec
