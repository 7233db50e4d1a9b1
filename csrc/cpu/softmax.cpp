#include "cpu/softmax.h"

#include <algorithm>

#include "cpu/clones.h"
#include "cpu/lanes.h"

namespace sparrow::cpu {
namespace {

// Of a row of any element, as float, a block at a time.
constexpr int64_t kBlock = 512;

// A NaN is passed over here; its own weight shows it.
template <typename Element>
SPARROW_INLINE float highest_of(const Element* logits, int64_t size) {
  LaneMaxima maxima;
  float block[kBlock];
  const int64_t whole = size - size % kBlock;
  for (int64_t begin = 0; begin < whole; begin += kBlock) {
    for (int64_t i = 0; i < kBlock; ++i) block[i] = to_float(logits[begin + i]);
    for (int64_t i = 0; i < kBlock; i += kLanes) maxima.take(block + i);
  }
  float highest = maxima.highest();
  for (int64_t i = whole; i < size; ++i) highest = std::max(highest, to_float(logits[i]));
  return highest;
}

template <typename Element>
SPARROW_INLINE void fill(const Element* logits, int64_t size, SoftmaxWeights<Element> softmax,
                         float* weights) {
  const float highest = highest_of(logits, size);
  for (int64_t i = 0; i < size; ++i) {
    weights[i] = exp_of_nonpositive((to_float(logits[i]) - highest) * softmax.inverse_temperature);
  }
}

SPARROW_CLONES void fill_row(const float* logits, int64_t size, SoftmaxWeights<float> softmax,
                             float* weights) {
  fill(logits, size, softmax, weights);
}
SPARROW_CLONES void fill_row(const Half* logits, int64_t size, SoftmaxWeights<Half> softmax,
                             float* weights) {
  fill(logits, size, softmax, weights);
}
SPARROW_CLONES void fill_row(const BFloat16* logits, int64_t size, SoftmaxWeights<BFloat16> softmax,
                             float* weights) {
  fill(logits, size, softmax, weights);
}

}  // namespace

SPARROW_CLONES double mass_of(const float* weights, int64_t size) {
  LaneSums sums;
  FourInts are_valid[4] = {~FourInts{}, ~FourInts{}, ~FourInts{}, ~FourInts{}};
  const int64_t whole = size - size % kLanes;
  for (int64_t begin = 0; begin < whole; begin += kLanes) {
    for (int i = 0; i < 4; ++i) {
      const FourDoubles x = widen_four(weights + begin + 4 * i);
      are_valid[i] &= x >= 0.0;
      sums.add_four(i, x);
    }
  }
  bool is_valid = true;
  for (int lane = 0; lane < kLanes; ++lane) is_valid &= are_valid[lane / 4][lane % 4] != 0;
  for (int64_t i = whole; i < size; ++i) {
    is_valid &= weights[i] >= 0;
    sums.add_one(i - whole, weights[i]);
  }
  return is_valid ? sums.total() : 0.0;
}

template <typename Element>
void softmax_weights(const Element* logits, int64_t size, SoftmaxWeights<Element> softmax,
                     float* weights) {
  fill_row(logits, size, softmax, weights);
}

template void softmax_weights(const float*, int64_t, SoftmaxWeights<float>, float*);
template void softmax_weights(const Half*, int64_t, SoftmaxWeights<Half>, float*);
template void softmax_weights(const BFloat16*, int64_t, SoftmaxWeights<BFloat16>, float*);

}  // namespace sparrow::cpu
