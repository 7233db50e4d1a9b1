// The call of topk_logprobs, as every driver takes it.
#pragma once

#include "kernels/common.h"
#include "kernels/scratch.h"

namespace sparrow {

inline constexpr int kMaxTopk = 64;  // k on CUDA

// logits [R, V] of `Element`; values and ids are [R, k], contiguous; 0 <= k <= V.
template <typename Element>
struct TopkLogprobs {
  int64_t num_rows, vocab, k;
  Rows<const Element> logits;
  float* values;
  int64_t* ids;
  Scratch scratch;
};

}  // namespace sparrow
