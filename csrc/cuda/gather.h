// CUDA drivers of gathering and commit. They launch and return; what goes wrong is thrown as
// std::runtime_error.
#pragma once

#include "cuda/stream.h"
#include "kernels/gather/call.h"

namespace sparrow::cuda {

void gather_hidden(const GatherHidden& call, Stream stream);
void compact_cache(const CompactCache& call, Stream stream);
void commit_path(const CommitPath& call, Stream stream);
void commit_tree(const CommitTree& call, Stream stream);

}  // namespace sparrow::cuda
