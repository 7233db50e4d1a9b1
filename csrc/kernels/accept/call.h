// The calls of the acceptance ops, as every driver takes them: raw pointers, sizes, strides.
#pragma once

#include "kernels/accept/walk.h"
#include "kernels/common.h"

namespace sparrow {

// A batch of trees as a walk reads them: every array is [B, T]. `parent` says nothing that the
// links do not; a driver may read it to find a node's children without following them.
struct TreeBatch {
  Rows<const int32_t> parent;
  Rows<const int32_t> depth;
  Rows<const int32_t> first_child;
  Rows<const int32_t> next_sibling;
  int64_t num_slots;

  SPARROW_HD TreeLinks links(int64_t b) const {
    return {depth[b], first_child[b], next_sibling[b], num_slots};
  }
};

// path and emitted are [B, S], accept_length [B]; all contiguous.
struct AcceptanceBatch {
  int32_t* path;
  int32_t* accept_length;
  int64_t* emitted;
  int64_t max_path;

  SPARROW_HD AcceptanceRows rows(int64_t b) const {
    return {path + b * max_path, emitted + b * max_path, max_path};
  }
};

struct AcceptTree {
  int64_t batch;
  TreeBatch tree;
  Rows<const int64_t> tokens;         // [B, T]
  Rows<const int64_t> target_tokens;  // [B, T]
  AcceptanceBatch out;
};

}  // namespace sparrow
