// What sampling by the inverse CDF means on every device.
//
//   cdf(i) = weight(0) + ... + weight(i)
//   id     = the first i with cdf(i) > uniform * cdf(last), else the last i with mass
//
// The weights need not sum to 1. A row with a NaN, a negative or infinite weight, or no mass at all
// yields -1. `uniform` is clamped to [0, 1], so an id without mass never comes out.
#pragma once

#include "kernels/common.h"

namespace sparrow {

inline constexpr int64_t kNoToken = -1;

SPARROW_HD inline bool is_mass(double mass) { return mass > 0 && mass < __builtin_huge_val(); }

// The sum that the cdf of the drawn id is the first to exceed. None exceeds that of a coin of 1, in
// whatever order the weights were summed: the last id with mass. So with a NaN.
SPARROW_HD inline double threshold_of(double uniform, double mass) {
  if (uniform < 1) return (uniform > 0 ? uniform : 0.0) * mass;
  return __builtin_huge_val();
}

}  // namespace sparrow
