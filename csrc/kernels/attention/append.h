// How the query and key of a new row are rotated, before it goes to the cache.
//
//   rotated[j] = x[j] * cos[j] - x[j + D/2] * sin[j]   for j < D/2
//   rotated[j] = x[j] * cos[j] + x[j - D/2] * sin[j]   for j >= D/2    (rotate-half over all of D)
//
// Computed in float32 and rounded once.
#pragma once

#include "kernels/element.h"

namespace sparrow {

// Elements j and j + half of one rotated row.
template <typename Element, typename Angle, typename Out>
SPARROW_HD inline void rotate_pair(const Element* row, const Angle* cos, const Angle* sin,
                                   int64_t half, int64_t j, Out* out) {
  const float low = to_float(row[j]), high = to_float(row[j + half]);
  from_float(low * to_float(cos[j]) - high * to_float(sin[j]), &out[j]);
  from_float(high * to_float(cos[j + half]) + low * to_float(sin[j + half]), &out[j + half]);
}

}  // namespace sparrow
