// The calls of appending to the cache, as every driver takes them.
#pragma once

#include "kernels/common.h"
#include "kernels/element.h"
#include "kernels/pages.h"

namespace sparrow {

// A tensor [B, heads, rows, D]; strides in elements, of 1 byte where the element does not matter.
template <typename T>
struct HeadRows {
  T* data;
  int64_t batch_stride, head_stride, row_stride;

  SPARROW_HD T* row(int64_t b, int64_t head, int64_t i) const {
    return data + b * batch_stride + head * head_stride + i * row_stride;
  }
};

// What the elements of a Float8 cache are multiplied by, [B, Hkv]; data is null where that is 1.
struct HeadScales {
  const float* data;
  int64_t batch_stride, head_stride;

  float at(int64_t b, int64_t head) const {
    return data == nullptr ? 1.0f : data[b * batch_stride + head * head_stride];
  }
};

// cos or sin, [B, T, D].
template <typename Angle>
struct AngleRows {
  Rows<const Angle> rows;
  int64_t batch_stride;

  SPARROW_HD const Angle* row(int64_t b, int64_t i) const {
    return rows.data + b * batch_stride + i * rows.stride;
  }
};

// Row i of every head goes to slot prefix_lens[b] + i, as bytes. The caches' rows are those of
// `pages`.
struct AppendCache {
  int64_t batch, heads, num_rows, row_bytes;
  HeadRows<const char> key, value;
  HeadRows<char> key_cache, value_cache;
  Pages pages;
  const int32_t* prefix_lens;
};

// Rotated query rows go to `query_out`, rotated key rows and the value rows into the cache.
template <typename Element, typename Angle>
struct RotateAppend {
  int64_t batch, query_heads, heads, num_rows, head_dim;
  HeadRows<const Element> query, key, value;
  HeadRows<Element> query_out, key_cache, value_cache;
  AngleRows<Angle> cos, sin;
  Pages pages;
  const int32_t* prefix_lens;
};

// Rows over their scale, rounded and saturated, to caches of Float8.
template <typename Element>
struct AppendFloat8 {
  int64_t batch, heads, num_rows, head_dim;
  HeadRows<const Element> key, value;
  HeadRows<Float8> key_cache, value_cache;
  HeadScales key_scale, value_scale;
  Pages pages;
  const int32_t* prefix_lens;
};

// The same of rotated keys, which are not rounded before, and rotated queries to `query_out`.
template <typename Element, typename Angle>
struct RotateAppendFloat8 {
  AppendFloat8<Element> rows;
  int64_t query_heads;
  HeadRows<const Element> query;
  HeadRows<Element> query_out;
  AngleRows<Angle> cos, sin;
};

}  // namespace sparrow
