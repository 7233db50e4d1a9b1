// Counters across the blocks of a launch, in device memory.
#pragma once

#include <cstdint>

#include "cuda/stream.h"

namespace sparrow::cuda {

// `count` counters of the current device that are zero when a kernel on `stream` begins, provided
// that every kernel leaves them so (atomicInc wraps by itself). They belong to the stream; a call
// that is captured gets its own, since a graph may run beside the stream it was captured on. These
// are the graph's until it and all that was instantiated from it are gone, and then another's: to
// capture again and again takes no more memory. Two instances of one graph share them, as they
// share every tensor that the call writes: one must have ended before the other begins. The first
// call on a stream allocates, which is no launch of the stream's.
uint32_t* counters(int64_t count, Stream stream);

}  // namespace sparrow::cuda
