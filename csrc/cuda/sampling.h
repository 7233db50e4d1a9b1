// CUDA drivers of the sampling kernels. They launch and return; what goes wrong is thrown as
// std::runtime_error.
#pragma once

#include "cuda/stream.h"
#include "kernels/accept/sampling_call.h"

namespace sparrow::cuda {

template <typename Weights>
void sample_rows(const SampleRows<Weights>& call, Stream stream);

template <typename Weights>
void accept_tree_residual(const AcceptTreeResidual<Weights>& call, Stream stream);

}  // namespace sparrow::cuda
