// Draws one id from a row of weights by its inverse CDF.
//
//   cdf(i) = row[0] + ... + row[i], summed in that order in double
//   id     = the first i with cdf(i) > uniform * cdf(last), else the last i with mass
//
// The weights need not sum to 1. A row with a NaN, a negative weight or no mass at all yields -1.
// `uniform` is clamped to [0, 1], so an id without mass never comes out.
// The row is read once, then one part of it again: sums at the borders of the parts are kept.
#pragma once

#include "kernels/common.h"

namespace sparrow {

inline constexpr int64_t kCdfParts = 128;
inline constexpr int64_t kSmallestCdfPart = 64;
inline constexpr int64_t kNoToken = -1;

template <typename Weight>
SPARROW_HD int64_t sample_row(const Weight* row, int64_t size, double uniform) {
  const int64_t even = (size + kCdfParts - 1) / kCdfParts;
  const int64_t part = even < kSmallestCdfPart ? kSmallestCdfPart : even;

  double cdf_before[kCdfParts];  // of each part
  double cdf = 0;
  bool is_valid = true;
  int64_t num_parts = 0;
  for (int64_t begin = 0; begin < size; begin += part) {
    cdf_before[num_parts++] = cdf;
    const int64_t end = begin + part < size ? begin + part : size;
    for (int64_t i = begin; i < end; ++i) {
      is_valid &= row[i] >= 0;
      cdf += row[i];
    }
  }
  if (!is_valid || !(cdf > 0)) return kNoToken;

  const double threshold = (uniform < 0 ? 0.0 : (uniform > 1 ? 1.0 : uniform)) * cdf;
  int64_t chosen = num_parts - 1;
  while (chosen > 0 && cdf_before[chosen] > threshold) --chosen;
  cdf = cdf_before[chosen];
  for (int64_t i = chosen * part; i < size; ++i) {
    cdf += row[i];
    if (cdf > threshold) return i;
  }
  int64_t last = size - 1;
  while (!(row[last] > 0)) --last;
  return last;
}

}  // namespace sparrow
