// Draws one id from a row of weights on a CPU. The cdf is summed in the order of the ids, in
// double.
//
// The row is read once, then one part of it again: sums at the borders of the parts are kept.
#pragma once

#include "kernels/accept/sample.h"

namespace sparrow::cpu {

inline constexpr int64_t kCdfParts = 128;
inline constexpr int64_t kSmallestCdfPart = 64;

// weight(i) is that of id i.
template <typename WeightOf>
int64_t sample_row(const WeightOf& weight, int64_t size, double uniform) {
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
      is_valid &= weight(i) >= 0;
      cdf += weight(i);
    }
  }
  if (!is_valid || !is_mass(cdf)) return kNoToken;

  const double threshold = threshold_of(uniform, cdf);
  int64_t chosen = num_parts - 1;
  while (chosen > 0 && cdf_before[chosen] > threshold) --chosen;
  cdf = cdf_before[chosen];
  for (int64_t i = chosen * part; i < size; ++i) {
    cdf += weight(i);
    if (cdf > threshold) return i;
  }
  int64_t last = size - 1;
  while (!(weight(last) > 0)) --last;
  return last;
}

}  // namespace sparrow::cpu
