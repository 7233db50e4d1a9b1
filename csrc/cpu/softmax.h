// The weights of a row on a CPU, and their mass.
#pragma once

#include <cstdint>

#include "kernels/accept/weights.h"

namespace sparrow::cpu {

// The mass of a row, 0 where one of its weights is none.
double mass_of(const float* weights, int64_t size);

// Fills weights[0, size) from a row of logits.
template <typename Element>
void softmax_weights(const Element* logits, int64_t size, SoftmaxWeights<Element> softmax,
                     float* weights);

}  // namespace sparrow::cpu
