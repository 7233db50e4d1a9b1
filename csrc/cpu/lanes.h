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
typedef float EightFloats __attribute__((vector_size(32)));
typedef int32_t EightInts __attribute__((vector_size(32)));
typedef double FourDoubles __attribute__((vector_size(32)));

SPARROW_INLINE FourDoubles widen_four(const float* from) {
  FourFloats x;
  memcpy(&x, from, sizeof(x));
  return __builtin_convertvector(x, FourDoubles);
}

SPARROW_INLINE EightFloats load_eight(const float* from) {
  EightFloats x;
  memcpy(&x, from, sizeof(x));
  return x;
}

// Asks for what is read soon: the processor does not look past the work on what it has. 2 KB ahead
// took sums of rows from memory from 0.36 to 0.28 ns an id. May point past a row's end.
inline constexpr int64_t kAhead = 512;
SPARROW_INLINE void fetch_ahead(const float* at) { __builtin_prefetch(at + kAhead); }

// The same for whole lines of a row of any element.
template <typename Element>
SPARROW_INLINE void fetch(const Element* from, int64_t count) {
  constexpr int64_t kOfLine = 64 / sizeof(Element);
  for (int64_t i = 0; i < count; i += kOfLine) __builtin_prefetch(from + i);
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
    const FourDoubles sums = (sums_[0] + sums_[1]) + (sums_[2] + sums_[3]);
    return (sums[0] + sums[1]) + (sums[2] + sums[3]);
  }

 private:
  FourDoubles sums_[4] = {};
};

// Whether all weights so far are any: neither negative nor NaN.
class LaneChecks {
 public:
  SPARROW_INLINE void take(const float* sixteen) {
    for (int i = 0; i < 2; ++i) are_weights_[i] &= load_eight(sixteen + 8 * i) >= 0.0f;
  }
  SPARROW_INLINE void take_one(float weight) { is_rest_ &= weight >= 0; }
  SPARROW_INLINE bool all() const {
    const EightInts both = are_weights_[0] & are_weights_[1];
    bool all = is_rest_;
    for (int lane = 0; lane < 8; ++lane) all &= both[lane] != 0;
    return all;
  }

 private:
  EightInts are_weights_[2] = {~EightInts{}, ~EightInts{}};
  bool is_rest_ = true;
};

SPARROW_INLINE bool any_above(const float* sixteen, float bar) {
  typedef int64_t FourWords __attribute__((vector_size(32)));
  const EightInts above = (load_eight(sixteen) > bar) | (load_eight(sixteen + 8) > bar);
  const FourWords words = reinterpret_cast<FourWords>(above);
  return ((words[0] | words[1]) | (words[2] | words[3])) != 0;
}

// The largest of some floats, -inf of none. A NaN is passed over.
SPARROW_INLINE float highest_of(const float* from, int64_t count) {
  constexpr float kNone = -__builtin_huge_valf();
  constexpr EightFloats kNones = {kNone, kNone, kNone, kNone, kNone, kNone, kNone, kNone};
  EightFloats highest[2] = {kNones, kNones};
  const int64_t whole = count - count % kLanes;
  for (int64_t at = 0; at < whole; at += kLanes) {
    fetch_ahead(from + at);
    for (int i = 0; i < 2; ++i) {
      const EightFloats x = load_eight(from + at + 8 * i);
      highest[i] = x > highest[i] ? x : highest[i];
    }
  }
  const EightFloats both = highest[0] > highest[1] ? highest[0] : highest[1];
  float largest = kNone;
  for (int lane = 0; lane < 8; ++lane) largest = both[lane] > largest ? both[lane] : largest;
  for (int64_t i = whole; i < count; ++i) largest = from[i] > largest ? from[i] : largest;
  return largest;
}

}  // namespace sparrow::cpu
