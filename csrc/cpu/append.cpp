#include "cpu/append.h"

#include <cstring>
#include <type_traits>

#include "cpu/clones.h"
#include "cpu/parallel.h"
#include "kernels/attention/append.h"

namespace sparrow::cpu {
namespace {

template <typename Element, typename Angle>
SPARROW_INLINE void rotate_row(const Element* row, const Angle* cos, const Angle* sin,
                               int64_t head_dim, Element* out) {
  const int64_t half = head_dim / 2;
  for (int64_t j = 0; j < half; ++j) rotate_pair(row, cos, sin, half, j, out);
}

// Overloads, not one template: target_clones does not mark templates.
#define ROTATE(Element, Angle)                                                       \
  SPARROW_CLONES void rotate(const Element* row, const Angle* cos, const Angle* sin, \
                             int64_t head_dim, Element* out) {                       \
    rotate_row(row, cos, sin, head_dim, out);                                        \
  }
ROTATE(float, float)
ROTATE(Half, float)
ROTATE(Half, Half)
ROTATE(BFloat16, float)
ROTATE(BFloat16, BFloat16)
#undef ROTATE

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
template <typename Element, typename Angle, typename PlaceOf>
void rotate_rows(const RotateAppend<Element, Angle>& call, int64_t heads,
                 const HeadRows<const Element>& from, const HeadRows<Element>& to,
                 const PlaceOf& place_of) {
  for_each_part(call.batch * heads, call.num_rows * call.head_dim, [&](int64_t begin, int64_t end) {
    for (int64_t plane = begin; plane < end; ++plane) {
      const int64_t b = plane / heads, head = plane % heads;
      for (int64_t i = 0; i < call.num_rows; ++i) {
        const Place at = place_of(b, i);
        if (at.block < 0) continue;
        rotate(from.row(b, head, i), call.cos.row(b, i), call.sin.row(b, i), call.head_dim,
               to.row(at.block, head, at.row));
      }
    }
  });
}

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
  rotate_rows(call, call.query_heads, call.query, call.query_out,
              [](int64_t b, int64_t i) { return Place{b, i}; });
  rotate_rows(call, call.heads, call.key, call.key_cache,
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

}  // namespace sparrow::cpu
