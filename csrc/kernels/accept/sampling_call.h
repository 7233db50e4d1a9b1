// The calls of the sampling ops, as every driver takes them.
#pragma once

#include "kernels/accept/call.h"
#include "kernels/accept/weights.h"
#include "kernels/common.h"
#include "kernels/scratch.h"

namespace sparrow {

// rows [R, V], uniform [R], ids [R].
template <typename Weights>
struct SampleRows {
  int64_t num_rows, vocab;
  Rows<const typename Weights::Element> rows;
  Weights weights;
  const float* uniform;
  int64_t* ids;
  Scratch scratch;
};

// One distribution a node: [B, T, V], V contiguous.
template <typename Weights>
struct NodeRows {
  Rows<const typename Weights::Element> rows;  // of request 0
  int64_t batch_stride;
  Weights weights;

  SPARROW_HD const typename Weights::Element* row(int64_t b, int64_t node) const {
    return rows[node] + b * batch_stride;
  }
};

template <typename Weights>
struct AcceptTreeResidual {
  int64_t batch, vocab;
  TreeBatch tree;
  Rows<const int64_t> tokens;  // [B, T]
  NodeRows<Weights> target, draft;
  Rows<const float> uniform;   // [B, T]
  const float* bonus_uniform;  // [B]
  AcceptanceBatch out;
  Scratch scratch;
};

}  // namespace sparrow
