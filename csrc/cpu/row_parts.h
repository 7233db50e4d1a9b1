// Rows of weights on a CPU, in parts: their sums, and the id that a coin draws from them.
//
// A part holds kPart ids. Its sum is taken in sixteen lanes (lanes.h), in double, and the cdf runs
// over the sums of the parts in their order: the same bits on any number of threads and at every
// level. What works on a part must be inlined into what at_level (levels.h) runs.
#pragma once

#include <algorithm>
#include <limits>
#include <type_traits>

#include "cpu/lanes.h"
#include "cpu/levels.h"
#include "kernels/accept/sample.h"
#include "kernels/accept/weights.h"

namespace sparrow::cpu {

inline constexpr int64_t kPart = 1024;
static_assert(kPart % kLanes == 0);

inline int64_t num_parts(int64_t vocab) { return (vocab + kPart - 1) / kPart; }

// The ids of a part.
struct Part {
  int64_t begin, count;

  Part(int64_t part, int64_t vocab)
      : begin(part * kPart), count(std::min(kPart, vocab - part * kPart)) {}
};

// The parts of one of `chunks` equal shares of a row.
struct Chunk {
  int64_t first, last;

  Chunk(int64_t chunk, int64_t chunks, int64_t parts)
      : first(chunk * parts / chunks), last((chunk + 1) * parts / chunks) {}
};

// The weights of a part of a row of elements, in `room` where they are not the elements themselves.
template <typename Weights>
SPARROW_INLINE const float* weigh(Weights weights, const typename Weights::Element* row, Part part,
                                  float highest, float* room) {
  if constexpr (std::is_same_v<Weights, PlainWeights>) {
    return row + part.begin;
  } else {
    constexpr int64_t kBlock = 256;
    const auto* from = row + part.begin;
    for (int64_t at = 0; at < part.count; at += kBlock) {
      const int64_t count = std::min(kBlock, part.count - at);
      fetch(from + at + kPart, count);
      for (int64_t i = at; i < at + count; ++i) room[i] = weights(to_float(from[i]), highest);
    }
    return room;
  }
}

// The highest element of a part. A NaN is passed over; its own weight shows it.
template <typename Element>
SPARROW_INLINE float highest_of(const Element* row, Part part) {
  if constexpr (std::is_same_v<Element, float>) {
    return highest_of(row + part.begin, part.count);
  } else {
    float widened[kPart];
    for (int64_t i = 0; i < part.count; ++i) widened[i] = to_float(row[part.begin + i]);
    return highest_of(widened, part.count);
  }
}

// NaN where one is no weight. A softmax has no negative ones, and a NaN stays one in a sum.
template <bool kMayBeNegative = true>
SPARROW_INLINE double sum_of(const float* weights, int64_t count) {
  LaneSums sums;
  LaneChecks checks;
  const int64_t whole = count - count % kLanes;
  for (int64_t at = 0; at < whole; at += kLanes) {
    fetch_ahead(weights + at);
    if constexpr (kMayBeNegative) checks.take(weights + at);
    sums.add(weights + at);
  }
  for (int64_t i = whole; i < count; ++i) {
    checks.take_one(weights[i]);
    sums.add_one(i - whole, weights[i]);
  }
  return checks.all() ? sums.total() : std::numeric_limits<double>::quiet_NaN();
}

// The mass of a row, by the sums of its parts; not is_mass() where one of them is NaN.
inline double mass_of(const double* sums, int64_t parts) {
  double mass = 0;
  for (int64_t part = 0; part < parts; ++part) mass += sums[part];
  return mass;
}

// The id that a coin draws. widen(part, weights) fills in the weights of a part.
template <typename Widen>
int64_t draw(const double* sums, int64_t vocab, double uniform, const Widen& widen) {
  const int64_t parts = num_parts(vocab);
  const double mass = mass_of(sums, parts);
  if (!is_mass(mass)) return kNoToken;
  const double threshold = threshold_of(uniform, mass);
  int64_t chosen = 0;
  double cdf = 0;
  while (chosen < parts - 1 && cdf + sums[chosen] <= threshold) cdf += sums[chosen++];

  double weights[kPart];
  // Mostly one part: within it the sum is taken in another order, and may end a digit lower.
  for (; chosen < parts; ++chosen) {
    const Part part(chosen, vocab);
    widen(part, weights);
    for (int64_t i = 0; i < part.count; ++i) {
      cdf += weights[i];
      if (cdf > threshold) return part.begin + i;
    }
  }
  int64_t last = parts - 1;
  while (!(sums[last] > 0)) --last;
  const Part part(last, vocab);
  widen(part, weights);
  int64_t i = part.count - 1;
  while (!(weights[i] > 0)) --i;
  return part.begin + i;
}

}  // namespace sparrow::cpu
