// How the elements of a row become the weights it is sampled by.
//
//   PlainWeights    the elements themselves
//   SoftmaxWeights  exp((logit - highest) / temperature), highest being the largest of the row
//
// Softmax weights are float32 and the same bits on a CPU and a GPU. The exponent is rounded twice,
// by |x| * 2^-23 at most for an exponent of x; what weighs e^x moves a running sum by less than
// 1e-6 of the whole even if all ids of a vocabulary were rounded the same way. An id 87 or more
// below the highest has no mass.
#pragma once

#include "kernels/common.h"
#include "kernels/element.h"
#include "kernels/exp.h"

namespace sparrow {

struct PlainWeights {
  using Element = float;
  static constexpr bool kNeedsHighest = false;

  SPARROW_HD float operator()(float weight, float) const { return weight; }
};

template <typename T>
struct SoftmaxWeights {
  using Element = T;
  static constexpr bool kNeedsHighest = true;
  float inverse_temperature;

  SPARROW_HD float operator()(float logit, float highest) const {
    return exp_of_nonpositive((logit - highest) * inverse_temperature);
  }
};

// For a positive temperature. Kept among the normal floats: 0 * -inf and inf * 0 would be no
// weights.
inline float inverse_of_temperature(double temperature) {
  constexpr double kSmallest = 0x1p-126, kLargest = 0x1p127;
  const double inverse = 1.0 / temperature;
  return static_cast<float>(inverse < kSmallest ? kSmallest
                                                : (inverse > kLargest ? kLargest : inverse));
}

}  // namespace sparrow
