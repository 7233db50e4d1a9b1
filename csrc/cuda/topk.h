// CUDA driver of topk_logprobs. It launches and returns; what goes wrong is thrown as
// std::runtime_error.
#pragma once

#include "cuda/stream.h"
#include "kernels/scratch.h"
#include "kernels/tree/topk_call.h"

namespace sparrow::cuda {

template <typename Element>
void topk_logprobs(const TopkLogprobs<Element>& call, Stream stream);

}  // namespace sparrow::cuda
