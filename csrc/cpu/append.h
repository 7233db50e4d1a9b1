// CPU drivers of appending to the cache, with and without rotary embedding.
#pragma once

#include <cstdint>

#include "kernels/common.h"

namespace sparrow::cpu {

// A tensor [B, heads, rows, D]; strides in elements, of 1 byte where the element does not matter.
template <typename T>
struct HeadRows {
  T* data;
  int64_t batch_stride, head_stride, row_stride;

  T* row(int64_t b, int64_t head, int64_t i) const {
    return data + b * batch_stride + head * head_stride + i * row_stride;
  }
};

// Row i of every head goes to slot prefix_lens[b] + i, as bytes.
struct AppendRows {
  int64_t batch, heads, num_rows, capacity, row_bytes;
  HeadRows<const char> from;
  HeadRows<char> cache;
  const int32_t* prefix_lens;
};

// The rotated query rows go to `query_out`, the rotated key rows into the cache.
template <typename Element, typename Angle>
struct RotateRows {
  int64_t batch, heads, num_rows, head_dim;
  HeadRows<const Element> from;
  HeadRows<Element> to;
  const int32_t* prefix_lens;  // null: row i stays row i
  int64_t capacity;
  // cos and sin are [B, T, D]
  Rows<const Angle> cos, sin;
  int64_t cos_batch_stride, sin_batch_stride;
};

void append_rows(const AppendRows& call);

template <typename Element, typename Angle>
void rotate_rows(const RotateRows<Element, Angle>& call);

}  // namespace sparrow::cpu
