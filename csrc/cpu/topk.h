// CPU driver of topk_logprobs.
#pragma once

#include "kernels/tree/topk_call.h"

namespace sparrow::cpu {

template <typename Element>
void topk_logprobs(const TopkLogprobs<Element>& call);

}  // namespace sparrow::cpu
