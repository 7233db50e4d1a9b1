// The type of a CUDA stream, for code that includes no CUDA header.
#pragma once

struct CUstream_st;

namespace sparrow::cuda {

using Stream = CUstream_st*;  // a cudaStream_t

}  // namespace sparrow::cuda
