// CPU driver of the weights that committed slots receive.
#pragma once

#include "kernels/attention/tree_call.h"

namespace sparrow::cpu {

template <typename Element>
void attention_mass(const AttentionMass<Element>& call);

}  // namespace sparrow::cpu
