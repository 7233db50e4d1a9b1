// A cluster of blocks (sm_90 and later): its barrier, and its other blocks' shared memory.
//
// Compiles everywhere; only a launch whose Grid names a cluster may run it. A block may return once
// nobody reads or writes its shared memory any more.
#pragma once

#include <cuda_runtime.h>

#include "cuda/block.h"

#if !defined(SPARROW_EMULATION)
#include <cooperative_groups.h>
#endif

namespace sparrow::cuda {

#if defined(SPARROW_EMULATION)
__device__ inline unsigned cluster_rank() { return ::sparrow::emulation::cluster_rank(); }
__device__ inline unsigned cluster_size() { return ::sparrow::emulation::cluster_size(); }
__device__ inline void cluster_sync() { ::sparrow::emulation::cluster_sync(); }
__device__ inline void cluster_begin() { ::sparrow::emulation::cluster_begin(); }
template <typename T>
__device__ T* of_block(T* shared, unsigned rank) {
  return ::sparrow::emulation::of_block(shared, rank);
}
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ inline unsigned cluster_rank() {
  return cooperative_groups::this_cluster().block_rank();
}
__device__ inline unsigned cluster_size() {
  return cooperative_groups::this_cluster().num_blocks();
}
// Also orders shared memory, across the cluster.
__device__ inline void cluster_sync() { cooperative_groups::this_cluster().sync(); }
// All blocks are there, and their mailboxes open; orders nothing else. Every thread calls it.
__device__ inline void cluster_begin() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
}
// Where block `rank` of the cluster holds what stands at `shared` in this one.
template <typename T>
__device__ T* of_block(T* shared, unsigned rank) {
  return cooperative_groups::this_cluster().map_shared_rank(shared, rank);
}
#else  // before Hopper a cluster is one block
__device__ inline unsigned cluster_rank() { return 0; }
__device__ inline unsigned cluster_size() { return 1; }
__device__ inline void cluster_sync() { __syncthreads(); }
__device__ inline void cluster_begin() {}
template <typename T>
__device__ T* of_block(T* shared, unsigned) {
  return shared;
}
#endif

}  // namespace sparrow::cuda
