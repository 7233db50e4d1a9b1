// The calls of the tree ops, as every driver takes them: raw pointers, sizes, strides.
#pragma once

#include "kernels/common.h"

namespace sparrow {

// parent [B, T]; num_nodes [B] or null for T; ancestors [B, T, W]; outputs are contiguous.
struct BuildTree {
  int64_t batch, num_slots, num_words;
  Rows<const int32_t> parent;
  const int32_t* num_nodes;
  int32_t* parent_out;
  int32_t* depth;
  int64_t* ancestors;
  int32_t* first_child;
  int32_t* next_sibling;
  int32_t* status;
};

// scores and parent [B, P]; selected [B, num_nodes - 1] and tree_parent [B, num_nodes], contiguous;
// 1 <= num_nodes <= P + 1.
struct SelectTree {
  int64_t batch, pool, num_nodes;
  Rows<const float> scores;
  Rows<const int32_t> parent;
  int32_t* selected;
  int32_t* tree_parent;
};

}  // namespace sparrow
