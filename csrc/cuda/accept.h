// CUDA drivers of the acceptance kernels. They launch and return; what goes wrong is thrown as
// std::runtime_error.
#pragma once

#include "cuda/stream.h"
#include "kernels/accept/call.h"

namespace sparrow::cuda {

void accept_tree(const AcceptTree& call, Stream stream);

}  // namespace sparrow::cuda
