// CPU drivers of the acceptance kernels: raw pointers in, loops over requests.
#pragma once

#include "kernels/common.h"

namespace sparrow::cpu {

// A batch of trees as the walk reads them: every array is [B, T].
struct TreeBatch {
  Rows<const int32_t> depth;
  Rows<const int32_t> first_child;
  Rows<const int32_t> next_sibling;
  int64_t num_slots;
};

// path and emitted are [B, S], accept_length [B]; all contiguous.
struct AcceptanceBatch {
  int32_t* path;
  int32_t* accept_length;
  int64_t* emitted;
  int64_t max_path;
};

struct AcceptTree {
  int64_t batch;
  TreeBatch tree;
  Rows<const int64_t> tokens;         // [B, T]
  Rows<const int64_t> target_tokens;  // [B, T]
  AcceptanceBatch out;
};

// probs [R, V] by rows, uniform [R], ids [R].
struct SampleTokens {
  int64_t num_rows, vocab;
  Rows<const float> probs;
  const float* uniform;
  int64_t* ids;
};

// The distributions are [B, T, V]; their strides over B stand here, those over T in the rows.
struct AcceptTreeResidual {
  int64_t batch, vocab;
  TreeBatch tree;
  Rows<const int64_t> tokens;  // [B, T]
  Rows<const float> target_probs;
  int64_t target_batch_stride;
  Rows<const float> draft_probs;
  int64_t draft_batch_stride;
  Rows<const float> uniform;   // [B, T]
  const float* bonus_uniform;  // [B]
  AcceptanceBatch out;
};

void accept_tree(const AcceptTree& call);
void sample_tokens(const SampleTokens& call);
void accept_tree_residual(const AcceptTreeResidual& call);

}  // namespace sparrow::cpu
