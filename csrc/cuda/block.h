// What a kernel says about its block: its shared memory, its warps.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

// SPARROW_SHARED(Type, name): a variable of the block. Type needs no constructor.
#if defined(SPARROW_EMULATION)
#define SPARROW_SHARED(Type, name)  \
  static const char name##_key = 0; \
  Type& name = ::sparrow::emulation::shared<Type>(&name##_key)
#else
#define SPARROW_SHARED(Type, name) __shared__ Type name
#endif

namespace sparrow::cuda {

inline constexpr int kWarp = 32;
inline constexpr uint32_t kWholeWarp = 0xffffffffu;

// The launch's dynamic shared memory, 16-byte aligned.
__device__ inline char* dynamic_shared() {
#if defined(SPARROW_EMULATION)
  return ::sparrow::emulation::dynamic_shared();
#else
  extern __shared__ __align__(16) char sparrow_dynamic_shared[];
  return sparrow_dynamic_shared;
#endif
}

__device__ inline int lane() { return static_cast<int>(threadIdx.x % kWarp); }
__device__ inline int warp() { return static_cast<int>(threadIdx.x / kWarp); }

}  // namespace sparrow::cuda
