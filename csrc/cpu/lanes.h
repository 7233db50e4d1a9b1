// Sums and maxima in lanes, which vectors of any width keep apart: the same bits at every level.
//
// Written with the compiler's vector types, since it does not find vectors in a loop over lanes.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/clones.h"

namespace sparrow::cpu {

inline constexpr int64_t kLanes = 16;

typedef float FourFloats __attribute__((vector_size(16)));
typedef double FourDoubles __attribute__((vector_size(32)));
typedef int64_t FourInts __attribute__((vector_size(32)));

SPARROW_INLINE FourFloats load_four(const float* from) {
  FourFloats x;
  memcpy(&x, from, sizeof(x));
  return x;
}

SPARROW_INLINE FourDoubles widen_four(const float* from) {
  return __builtin_convertvector(load_four(from), FourDoubles);
}

// Sixteen sums in double.
class LaneSums {
 public:
  SPARROW_INLINE void add(const float* sixteen) {
    for (int i = 0; i < 4; ++i) sums_[i] += widen_four(sixteen + 4 * i);
  }
  // Of four lanes, from lane 4 * i on.
  SPARROW_INLINE void add_four(int i, FourDoubles x) { sums_[i] += x; }
  // What does not fill the lanes goes to the first ones.
  SPARROW_INLINE void add_one(int64_t lane, double x) { sums_[lane / 4][lane % 4] += x; }
  SPARROW_INLINE double total() const {
    double sum = 0;
    for (int lane = 0; lane < kLanes; ++lane) sum += sums_[lane / 4][lane % 4];
    return sum;
  }

 private:
  FourDoubles sums_[4] = {};
};

// Sixteen maxima. A NaN is passed over.
class LaneMaxima {
 public:
  SPARROW_INLINE void take(const float* sixteen) {
    for (int i = 0; i < 4; ++i) {
      const FourFloats x = load_four(sixteen + 4 * i);
      highest_[i] = x > highest_[i] ? x : highest_[i];
    }
  }
  SPARROW_INLINE float highest() const {
    float highest = -__builtin_huge_valf();
    for (int lane = 0; lane < kLanes; ++lane) {
      const float x = highest_[lane / 4][lane % 4];
      highest = x > highest ? x : highest;
    }
    return highest;
  }

 private:
  static constexpr FourFloats kNone = {-__builtin_huge_valf(), -__builtin_huge_valf(),
                                       -__builtin_huge_valf(), -__builtin_huge_valf()};
  FourFloats highest_[4] = {kNone, kNone, kNone, kNone};
};

}  // namespace sparrow::cpu
