// CPU driver of topk_logprobs.
#pragma once

#include <cstdint>

#include "kernels/common.h"

namespace sparrow::cpu {

// logits [R, V] of `Element`; values and ids are [R, k], contiguous; 0 <= k <= V.
template <typename Element>
struct TopkLogprobs {
  int64_t num_rows, vocab, k;
  Rows<const Element> logits;
  float* values;
  int64_t* ids;
};

template <typename Element>
void topk_logprobs(const TopkLogprobs<Element>& call);

}  // namespace sparrow::cpu
