#include "cpu/softmax.h"

#include <algorithm>

#include "cpu/clones.h"

namespace sparrow::cpu {
namespace {

constexpr int64_t kLanes = 16;

// A NaN is passed over here; its own weight shows it.
template <typename Element>
SPARROW_INLINE float highest_of(const Element* logits, int64_t size) {
  float highest[kLanes];
  for (int64_t lane = 0; lane < kLanes; ++lane) highest[lane] = -__builtin_huge_valf();
  const int64_t whole = size - size % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      const float logit = to_float(logits[i + lane]);
      highest[lane] = logit > highest[lane] ? logit : highest[lane];
    }
  }
  for (int64_t i = whole; i < size; ++i) {
    highest[i - whole] = std::max(highest[i - whole], to_float(logits[i]));
  }
  return *std::max_element(highest, highest + kLanes);
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
  double lanes[kLanes] = {};
  bool is_valid = true;
  const int64_t whole = size - size % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      is_valid &= weights[i + lane] >= 0;
      lanes[lane] += weights[i + lane];
    }
  }
  for (int64_t i = whole; i < size; ++i) {
    is_valid &= weights[i] >= 0;
    lanes[i - whole] += weights[i];
  }
  double mass = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) mass += lanes[lane];
  return is_valid ? mass : 0.0;
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
