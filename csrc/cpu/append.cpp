#include "cpu/append.h"

#include <cstring>
#include <type_traits>
#include <vector>

#include "cpu/clones.h"
#include "cpu/parallel.h"
#include "kernels/attention/append.h"

namespace sparrow::cpu {
namespace {

constexpr int kPairs = 32;  // rotated at once

// In buffers of its own: of pointers that may meet, the compiler makes no vectors of 16-bit
// elements.
template <typename Element, typename Angle, typename Out>
SPARROW_INLINE void rotate_pairs(const Element* row, const Angle* cos, const Angle* sin,
                                 int64_t half, Out* out) {
  float low[kPairs], high[kPairs], cosine[kPairs], sine[kPairs];
  for (int j = 0; j < kPairs; ++j) low[j] = to_float(row[j]);
  for (int j = 0; j < kPairs; ++j) high[j] = to_float(row[j + half]);
  const auto angles = [&](int64_t from) __attribute__((always_inline)) {
    for (int j = 0; j < kPairs; ++j) cosine[j] = to_float(cos[from + j]);
    for (int j = 0; j < kPairs; ++j) sine[j] = to_float(sin[from + j]);
  };
  angles(0);
  for (int j = 0; j < kPairs; ++j) from_float(low[j] * cosine[j] - high[j] * sine[j], &out[j]);
  angles(half);
  out += half;
  for (int j = 0; j < kPairs; ++j) from_float(high[j] * cosine[j] + low[j] * sine[j], &out[j]);
}

template <typename Element, typename Angle, typename Out>
SPARROW_INLINE void rotate_row(const Element* row, const Angle* cos, const Angle* sin,
                               int64_t head_dim, Out* out) {
  const int64_t half = head_dim / 2;
  int64_t j = 0;
  for (; j + kPairs <= half; j += kPairs) {
    rotate_pairs(row + j, cos + j, sin + j, half, out + j);
  }
  for (; j < half; ++j) rotate_pair(row, cos, sin, half, j, out);
}

// Overloads, not one template: target_clones does not mark templates.
#define ROTATE(Element, Angle, Out)                                                  \
  SPARROW_CLONES void rotate(const Element* row, const Angle* cos, const Angle* sin, \
                             int64_t head_dim, Out* out) {                           \
    rotate_row(row, cos, sin, head_dim, out);                                        \
  }
ROTATE(float, float, float)
ROTATE(Half, float, Half)
ROTATE(Half, Half, Half)
ROTATE(BFloat16, float, BFloat16)
ROTATE(BFloat16, BFloat16, BFloat16)
// Keys on their way to a Float8 cache.
ROTATE(Half, float, float)
ROTATE(Half, Half, float)
ROTATE(BFloat16, float, float)
ROTATE(BFloat16, BFloat16, float)
#undef ROTATE
#define QUANTIZE(Element)                                                                       \
  SPARROW_CLONES void quantize(const Element* row, float scale, int64_t head_dim, Float8* to) { \
    for (int64_t d = 0; d < head_dim; ++d) from_float(to_float(row[d]) / scale, &to[d]);        \
  }
QUANTIZE(float)
QUANTIZE(Half)
QUANTIZE(BFloat16)
#undef QUANTIZE

// Row i of each head of [B, heads, T, D] goes to slot prefix_lens[b] + i, as bytes.
struct Append {
  int64_t batch, heads, num_rows, row_bytes;
  HeadRows<const char> from;
  HeadRows<char> cache;
  const Pages& pages;
  const int32_t* prefix_lens;
};

void append_rows(const Append& call) {
  for_each_part(call.batch * call.heads, call.num_rows * call.row_bytes,
                [&](int64_t begin, int64_t end) {
                  for (int64_t plane = begin; plane < end; ++plane) {
                    const int64_t b = plane / call.heads, head = plane % call.heads;
                    for (int64_t i = 0; i < call.num_rows; ++i) {
                      const Place to = call.pages.place(b, call.prefix_lens[b] + i);
                      if (to.block < 0) continue;
                      std::memmove(call.cache.row(to.block, head, to.row),
                                   call.from.row(b, head, i), call.row_bytes);
                    }
                  }
                });
}

// Rotated rows go to `to`, row i to place_of(b, i).
template <typename Call, typename Element, typename PlaceOf>
void rotate_rows(const Call& call, int64_t batch, int64_t heads, int64_t num_rows, int64_t head_dim,
                 const HeadRows<const Element>& from, const HeadRows<Element>& to,
                 const PlaceOf& place_of) {
  for_each_part(batch * heads, num_rows * head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t b = plane / heads, head = plane % heads;
      for (int64_t i = 0; i < num_rows; ++i) {
        const Place at = place_of(b, i);
        if (at.block < 0) continue;
        rotate(from.row(b, head, i), call.cos.row(b, i), call.sin.row(b, i), head_dim,
               to.row(at.block, head, at.row));
      }
    }
  });
}

// row_to(b, head, i, scale, to) makes row i of each head, which goes to slot prefix_lens[b] + i.
template <typename Element, typename RowTo>
void quantize_rows(const AppendFloat8<Element>& call, const HeadScales& scales,
                   const HeadRows<Float8>& cache, const RowTo& row_to) {
  for_each_part(call.batch * call.heads, call.num_rows * call.head_dim,
                [&](int64_t begin, int64_t end) {
                  for (int64_t plane = begin; plane < end; ++plane) {
                    const int64_t b = plane / call.heads, head = plane % call.heads;
                    for (int64_t i = 0; i < call.num_rows; ++i) {
                      const Place at = call.pages.place(b, call.prefix_lens[b] + i);
                      if (at.block < 0) continue;
                      row_to(b, head, i, scales.at(b, head), cache.row(at.block, head, at.row));
                    }
                  }
                });
}

template <typename Element>
auto quantized(const HeadRows<const Element>& from, int64_t head_dim) {
  return [&from, head_dim](int64_t b, int64_t head, int64_t i, float scale, Float8* to) {
    quantize(from.row(b, head, i), scale, head_dim, to);
  };
}

Place own_place(int64_t b, int64_t i) { return {b, i}; }

template <typename T>
auto as_bytes(const HeadRows<T>& rows) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  constexpr int64_t kSize = sizeof(T);
  return HeadRows<Byte>{reinterpret_cast<Byte*>(rows.data), rows.batch_stride * kSize,
                        rows.head_stride * kSize, rows.row_stride * kSize};
}

}  // namespace

void append_cache(const AppendCache& call) {
  const auto append = [&](const HeadRows<const char>& from, const HeadRows<char>& cache) {
    append_rows({call.batch, call.heads, call.num_rows, call.row_bytes, from, cache, call.pages,
                 call.prefix_lens});
  };
  append(call.key, call.key_cache);
  append(call.value, call.value_cache);
}

template <typename Element, typename Angle>
void rotate_append(const RotateAppend<Element, Angle>& call) {
  rotate_rows(call, call.batch, call.query_heads, call.num_rows, call.head_dim, call.query,
              call.query_out, own_place);
  rotate_rows(call, call.batch, call.heads, call.num_rows, call.head_dim, call.key, call.key_cache,
              [&](int64_t b, int64_t i) { return call.pages.place(b, call.prefix_lens[b] + i); });
  append_rows({call.batch, call.heads, call.num_rows,
               call.head_dim * static_cast<int64_t>(sizeof(Element)), as_bytes(call.value),
               as_bytes(call.value_cache), call.pages, call.prefix_lens});
}

template void rotate_append(const RotateAppend<float, float>&);
template void rotate_append(const RotateAppend<Half, float>&);
template void rotate_append(const RotateAppend<Half, Half>&);
template void rotate_append(const RotateAppend<BFloat16, float>&);
template void rotate_append(const RotateAppend<BFloat16, BFloat16>&);

template <typename Element>
void append_float8(const AppendFloat8<Element>& call) {
  quantize_rows(call, call.key_scale, call.key_cache, quantized(call.key, call.head_dim));
  quantize_rows(call, call.value_scale, call.value_cache, quantized(call.value, call.head_dim));
}

template <typename Element, typename Angle>
void rotate_append_float8(const RotateAppendFloat8<Element, Angle>& call) {
  const AppendFloat8<Element>& rows = call.rows;
  rotate_rows(call, rows.batch, call.query_heads, rows.num_rows, rows.head_dim, call.query,
              call.query_out, own_place);
  quantize_rows(rows, rows.key_scale, rows.key_cache,
                [&](int64_t b, int64_t head, int64_t i, float scale, Float8* to) {
                  thread_local std::vector<float> rotated;
                  rotated.resize(rows.head_dim);
                  rotate(rows.key.row(b, head, i), call.cos.row(b, i), call.sin.row(b, i),
                         rows.head_dim, rotated.data());
                  quantize(rotated.data(), scale, rows.head_dim, to);
                });
  quantize_rows(rows, rows.value_scale, rows.value_cache, quantized(rows.value, rows.head_dim));
}

template void append_float8(const AppendFloat8<float>&);
template void append_float8(const AppendFloat8<Half>&);
template void append_float8(const AppendFloat8<BFloat16>&);
template void rotate_append_float8(const RotateAppendFloat8<float, float>&);
template void rotate_append_float8(const RotateAppendFloat8<Half, float>&);
template void rotate_append_float8(const RotateAppendFloat8<Half, Half>&);
template void rotate_append_float8(const RotateAppendFloat8<BFloat16, float>&);
template void rotate_append_float8(const RotateAppendFloat8<BFloat16, BFloat16>&);

}  // namespace sparrow::cpu
