// CUDA drivers of the tree kernels. They launch and return; what goes wrong is thrown as
// std::runtime_error.
#pragma once

#include "cuda/stream.h"
#include "kernels/tree/call.h"

namespace sparrow::cuda {

void build_tree(const BuildTree& call, Stream stream);
void select_tree(const SelectTree& call, Stream stream);

}  // namespace sparrow::cuda
