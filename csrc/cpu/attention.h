// CPU drivers of tree attention and of joining its parts.
#pragma once

#include "kernels/attention/tree_call.h"

namespace sparrow::cpu {

template <typename Element, typename Stored>
void tree_attention(const TreeAttention<Element, Stored>& call);

template <typename Element>
void merge_attention(const MergeAttention<Element>& call);

}  // namespace sparrow::cpu
