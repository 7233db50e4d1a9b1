// Where a new row goes in the cache, and how its query and key are rotated before.
//
//   slot       = prefix_len + row                      rows outside the cache are not written
//   rotated[j] = x[j] * cos[j] - x[j + D/2] * sin[j]   for j < D/2
//   rotated[j] = x[j] * cos[j] + x[j - D/2] * sin[j]   for j >= D/2    (rotate-half over all of D)
//
// Computed in float32 and rounded once.
#pragma once

#include "kernels/element.h"

namespace sparrow {

// The slot of new row `row`, -1 if it lies outside the cache.
SPARROW_HD inline int64_t append_slot(int32_t prefix_len, int64_t row, int64_t capacity) {
  const int64_t slot = prefix_len + row;
  return slot >= 0 && slot < capacity ? slot : -1;
}

// Elements j and j + half of one rotated row.
template <typename Element, typename Angle>
SPARROW_HD inline void rotate_pair(const Element* row, const Angle* cos, const Angle* sin,
                                   int64_t half, int64_t j, Element* out) {
  const float low = to_float(row[j]), high = to_float(row[j + half]);
  from_float(low * to_float(cos[j]) - high * to_float(sin[j]), &out[j]);
  from_float(high * to_float(cos[j + half]) + low * to_float(sin[j + half]), &out[j + half]);
}

}  // namespace sparrow
