// CPU driver of tree attention.
#pragma once

#include "kernels/attention/tree_call.h"

namespace sparrow::cpu {

template <typename Element>
void tree_attention(const TreeAttention<Element>& call);

}  // namespace sparrow::cpu
