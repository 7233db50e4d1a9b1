// CUDA drivers of appending to the cache. They launch and return; what goes wrong is thrown as
// std::runtime_error.
#pragma once

#include "cuda/stream.h"
#include "kernels/attention/call.h"

namespace sparrow::cuda {

void append_cache(const AppendCache& call, Stream stream);

template <typename Element, typename Angle>
void rotate_append(const RotateAppend<Element, Angle>& call, Stream stream);

}  // namespace sparrow::cuda
