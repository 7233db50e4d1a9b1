// Counters across the blocks of a launch, in device memory.
#pragma once

#include <cstdint>

#include "cuda/stream.h"

namespace sparrow::cuda {

// `count` counters of the current device that are zero when a kernel on `stream` begins, provided
// that every kernel leaves them so (atomicInc wraps by itself). They belong to the stream; a call
// that is captured gets its own, since a graph may run beside the stream it was captured on. The
// first call on a stream allocates, which is no launch of the stream's; memory is never freed.
uint32_t* counters(int64_t count, Stream stream);

}  // namespace sparrow::cuda
