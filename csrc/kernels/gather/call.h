// The calls of gathering and commit, as every driver takes them. Rows move as bytes.
#pragma once

#include <span>
#include <vector>

#include "kernels/accept/call.h"
#include "kernels/common.h"
#include "kernels/pages.h"

namespace sparrow {

// Keys of every layer, then values; all share one shape and strides, in bytes here.
struct CacheBatch {
  std::span<char* const> tensors;
  CacheRows rows;
  int64_t batch = 0, heads = 0;
  int64_t head_stride = 0, row_bytes = 0;
};

// Committed slots of every request: one row for all layers, or one a layer.
struct PrefixLens {
  int32_t* lens;  // [B] or [L, B]
  int64_t layers;
  int64_t layer_stride;

  SPARROW_HD int32_t* of(int64_t layer) const {
    return lens + (layers > 1 ? layer % layers * layer_stride : 0);
  }
};

// Hidden rows of several layers: tensor l is [B, R, H]; strides in bytes, per layer.
struct HiddenStates {
  struct Layer {
    const char* data;
    int64_t batch_stride, row_stride;
  };
  std::vector<Layer> layers;
  int64_t num_rows;
  int64_t row_bytes;
};

// Row (b, a) of the result [B, A, L*H], strides in bytes.
struct HiddenOut {
  char* data;
  int64_t batch_stride, row_stride;
};

// Row index[b][a] of every layer side by side; an index outside the rows yields zeros.
struct GatherHidden {
  int64_t batch, num_gathered;
  Rows<const int32_t> index;
  HiddenStates states;
  HiddenOut out;
};

// The path to commit: path [B, S], accept_length [B].
struct CommittedPath {
  int64_t batch, max_path;
  Rows<const int32_t> path;
  const int32_t* accept_length;
};

// Moves the path's rows behind the prefix, in every tensor of the cache.
struct CompactCache {
  CommittedPath path;
  PrefixLens prefix_lens;  // not written
  CacheBatch cache;
};

// The same, and gathers the committed nodes' hidden rows (an idle request's are zeros), and
// advances the prefix.
struct CommitPath {
  CommittedPath path;
  PrefixLens prefix_lens;
  CacheBatch cache;
  HiddenStates states;
  HiddenOut out;
};

// The same of the path that `accept` finds.
struct CommitTree {
  AcceptTree accept;
  PrefixLens prefix_lens;
  CacheBatch cache;
  HiddenStates states;
  HiddenOut out;
};

}  // namespace sparrow
