// How a warp reads a row of a vocabulary, sums it, and draws from it.
//
// A row is read in groups of four ids, lane by lane: one load of 16 bytes for float32, of 8 for the
// two-byte types. A row that does not begin at such a border is read element by element: the same
// bytes, more instructions.
#pragma once

#include <cuda_runtime.h>

#include "cuda/block.h"
#include "kernels/accept/sample.h"
#include "kernels/element.h"

namespace sparrow::cuda {

inline constexpr int kGroup = 4;  // ids
inline constexpr float kInfinity = __builtin_huge_valf();

__host__ __device__ inline int64_t groups_of(int64_t vocab) {
  return (vocab + kGroup - 1) / kGroup;
}

__device__ inline void load_vector(const float* from, float (&to)[kGroup]) {
  const float4 four = __ldg(reinterpret_cast<const float4*>(from));
  to[0] = four.x;
  to[1] = four.y;
  to[2] = four.z;
  to[3] = four.w;
}

template <typename Element>
__device__ inline void load_vector(const Element* from, float (&to)[kGroup]) {
  static_assert(sizeof(Element) == 2);
  const uint2 four = __ldg(reinterpret_cast<const uint2*>(from));
  to[0] = to_float(Element{static_cast<uint16_t>(four.x)});
  to[1] = to_float(Element{static_cast<uint16_t>(four.x >> 16)});
  to[2] = to_float(Element{static_cast<uint16_t>(four.y)});
  to[3] = to_float(Element{static_cast<uint16_t>(four.y >> 16)});
}

template <typename Element>
struct VocabularyRow {
  const Element* data;
  int64_t size;
  bool is_aligned;

  __device__ VocabularyRow(const Element* row, int64_t vocab)
      : data(row),
        size(vocab),
        is_aligned(reinterpret_cast<uintptr_t>(row) % (kGroup * sizeof(Element)) == 0) {}

  // Ids [4 * group, 4 * group + 4); `beyond` stands for those at or past the row's end.
  __device__ void load(int64_t group, float beyond, float (&to)[kGroup]) const {
    const int64_t first = group * kGroup;
    if (is_aligned && first + kGroup <= size) {
      load_vector(data + first, to);
      return;
    }
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      to[j] = first + j < size ? to_float(data[first + j]) : beyond;
    }
  }

  // Groups begin + own, begin + own + stride, ... below `end`, `beyond` for the others. `own` is
  // below `stride`, which is as many lanes as load together. One branch for all of them, so that
  // all loads fly at once, with addresses that the instructions hold.
  template <int kCount>
  __device__ void load_strided(int64_t begin, int64_t end, int own, int stride, float beyond,
                               float (&to)[kCount][kGroup]) const {
    const bool is_whole = is_aligned && end * kGroup <= size;
    const int count =
        end - begin < kCount * stride ? static_cast<int>(end - begin) : kCount * stride;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) to[i][j] = beyond;
    }
    if (is_whole) {
      const Element* from = data + (begin + own) * kGroup;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        if (own + i * stride < count) load_vector(from + i * stride * kGroup, to[i]);
      }
      return;
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      if (own + i * stride < count) load(begin + own + i * stride, beyond, to[i]);
    }
  }
};

// A sum of floats held as two: what an addition rounds off is added up beside it (two-sum, Knuth).
// Nearly the digits of a double, in single-precision instructions. Not for infinities: NaN.
struct PairSum {
  float high = 0, low = 0;

  __device__ void add(float value) {
    const float sum = high + value;
    const float added = sum - high;
    low += (high - (sum - added)) + (value - added);
    high = sum;
  }

  __device__ double value() const { return static_cast<double>(high) + low; }
};

// One for each id of a group: four chains of additions, none of which waits for another.
struct GroupSum {
  PairSum of[kGroup];

  __device__ double value() const {
    return (of[0].value() + of[1].value()) + (of[2].value() + of[3].value());
  }
};

// The same to a few roundings of the whole, in a quarter of the instructions: the weights of a few
// groups are added as floats. What is tiny beside its neighbours is lost.
struct RoundedSum {
  PairSum some;

  template <int kCount>
  __device__ void add(const float (&groups)[kCount][kGroup]) {
    constexpr int kFew = 3;  // groups
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const float group = (groups[i][0] + groups[i][1]) + (groups[i][2] + groups[i][3]);
      sum = i % kFew == 0 ? group : sum + group;
      if (i % kFew == kFew - 1 || i == kCount - 1) some.add(sum);
    }
  }
  __device__ double value() const { return some.value(); }
};

__device__ inline double warp_sum(double value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value += __shfl_xor_sync(kWholeWarp, value, step);
  }
  return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const float other = __shfl_xor_sync(kWholeWarp, value, step);
    value = other > value ? other : value;
  }
  return value;
}

__device__ inline int warp_max(int value) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const int other = __shfl_xor_sync(kWholeWarp, value, step);
    value = other > value ? other : value;
  }
  return value;
}

// The sum over this lane and those below it.
__device__ inline double warp_prefix_sum(double value) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const double below = __shfl_up_sync(kWholeWarp, value, step);
    if (lane() >= step) value += below;
  }
  return value;
}

// Where a draw goes on: in one part of a row, with what all that lies before it weighs.
struct DrawnPart {
  int part;  // -1: no part has mass
  double before;
  double threshold;
};

// The first part whose cdf exceeds the threshold, else the last one with mass, by a whole warp.
// mass(p) is that of part p; `whole` is what the parts are cut from.
template <typename MassOf>
__device__ DrawnPart draw_part(int num_parts, const DrawnPart& whole, const MassOf& mass) {
  const double threshold = whole.threshold;
  const int each = (num_parts + kWarp - 1) / kWarp;
  const int begin = min(lane() * each, num_parts), end = min(begin + each, num_parts);
  double own = 0;
  for (int p = begin; p < end; ++p) own += mass(p);
  const double through = warp_prefix_sum(own);
  double before = __shfl_up_sync(kWholeWarp, through, 1);
  if (lane() == 0) before = 0;

  DrawnPart drawn{-1, 0, threshold};
  int last = -1;
  double cdf = whole.before + before;
  for (int p = begin; p < end; ++p) {
    const double here = mass(p);
    if (!(here > 0)) continue;
    last = p;
    if (drawn.part < 0 && cdf + here > threshold) drawn = {p, cdf, threshold};
    cdf += here;
  }
  const uint32_t lanes = __ballot_sync(kWholeWarp, drawn.part >= 0);
  if (lanes != 0) {
    const int first = __ffs(static_cast<int>(lanes)) - 1;
    return {__shfl_sync(kWholeWarp, drawn.part, first),
            __shfl_sync(kWholeWarp, drawn.before, first), threshold};
  }
  return {warp_max(last), 0, kInfinity};  // a coin of 1, or rounding: the last id with mass
}

// The first id of groups [begin, end) whose cdf exceeds the threshold, else the last with mass; -1
// where none has any. weigh(group, out) gives a group's four weights. By a whole warp.
template <typename Weigh>
__device__ int64_t draw_id(int64_t begin, int64_t end, const DrawnPart& drawn, const Weigh& weigh) {
  double before = drawn.before;
  int last = -1;  // from 4 * begin on
  for (int64_t base = begin; base < end; base += kWarp) {
    const int64_t group = base + lane();
    float weights[kGroup] = {};
    if (group < end) weigh(group, weights);
    double own = 0;
#pragma unroll
    for (int j = 0; j < kGroup; ++j) own += weights[j];
    const double through = warp_prefix_sum(own);
    double cdf = before + (through - own);
    int found = -1;
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      cdf += weights[j];
      if (!(weights[j] > 0)) continue;
      last = static_cast<int>(group - begin) * kGroup + j;
      if (found < 0 && cdf > drawn.threshold) found = last;
    }
    const uint32_t lanes = __ballot_sync(kWholeWarp, found >= 0);
    if (lanes != 0) {
      const int first = __ffs(static_cast<int>(lanes)) - 1;
      return begin * kGroup + __shfl_sync(kWholeWarp, found, first);
    }
    before += __shfl_sync(kWholeWarp, through, kWarp - 1);
  }
  last = warp_max(last);
  return last < 0 ? kNoToken : begin * kGroup + last;
}

}  // namespace sparrow::cuda
