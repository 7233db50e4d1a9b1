// CPU drivers of gathering and commit: raw pointers in, rows moved as bytes.
#pragma once

#include <vector>

#include "kernels/common.h"

namespace sparrow::cpu {

// Keys and values of every layer; all share one shape [B, Hkv, N, D] and strides, in bytes here.
struct CacheBatch {
  std::vector<char*> tensors;
  int64_t batch = 0, heads = 0, capacity = 0;
  int64_t batch_stride = 0, head_stride = 0, slot_stride = 0;
  int64_t row_bytes = 0;
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

// The path to commit: path [B, S], accept_length [B], prefix_lens [B].
struct CommittedPath {
  int64_t batch, max_path;
  Rows<const int32_t> path;
  const int32_t* accept_length;
};

// Row index[b][a] of every layer side by side; an index outside the rows yields zeros.
void gather_hidden(int64_t batch, int64_t num_gathered, Rows<const int32_t> index,
                   const HiddenStates& states, const HiddenOut& out);

// Moves the path's rows behind the prefix, in every tensor of the cache.
void compact_cache(const CommittedPath& path, const int32_t* prefix_lens, const CacheBatch& cache);

// Gathers the committed nodes' hidden rows; an idle request's rows are zeros.
void gather_path(const CommittedPath& path, const HiddenStates& states, const HiddenOut& out);

void advance_prefix(const CommittedPath& path, int64_t capacity, int32_t* prefix_lens);

}  // namespace sparrow::cpu
