#include "cpu/append.h"

#include <cstring>

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

}  // namespace

void append_rows(const AppendRows& call) {
  for_each_part(
      call.batch * call.heads, call.num_rows * call.row_bytes, [&](int64_t begin, int64_t end) {
        for (int64_t plane = begin; plane < end; ++plane) {
          const int64_t b = plane / call.heads, head = plane % call.heads;
          for (int64_t i = 0; i < call.num_rows; ++i) {
            const int64_t slot = append_slot(call.prefix_lens[b], i, call.capacity);
            if (slot < 0) continue;
            std::memmove(call.cache.row(b, head, slot), call.from.row(b, head, i), call.row_bytes);
          }
        }
      });
}

template <typename Element, typename Angle>
void rotate_rows(const RotateRows<Element, Angle>& call) {
  for_each_part(call.batch * call.heads, call.num_rows * call.head_dim,
                [&](int64_t begin, int64_t end) {
                  for (int64_t plane = begin; plane < end; ++plane) {
                    const int64_t b = plane / call.heads, head = plane % call.heads;
                    const Angle* cos = call.cos.data + b * call.cos_batch_stride;
                    const Angle* sin = call.sin.data + b * call.sin_batch_stride;
                    for (int64_t i = 0; i < call.num_rows; ++i) {
                      const int64_t to = call.prefix_lens == nullptr
                                             ? i
                                             : append_slot(call.prefix_lens[b], i, call.capacity);
                      if (to < 0) continue;
                      rotate(call.from.row(b, head, i), cos + i * call.cos.stride,
                             sin + i * call.sin.stride, call.head_dim, call.to.row(b, head, to));
                    }
                  }
                });
}

template void rotate_rows(const RotateRows<float, float>&);
template void rotate_rows(const RotateRows<Half, float>&);
template void rotate_rows(const RotateRows<Half, Half>&);
template void rotate_rows(const RotateRows<BFloat16, float>&);
template void rotate_rows(const RotateRows<BFloat16, BFloat16>&);

}  // namespace sparrow::cpu
