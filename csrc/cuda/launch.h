// Launches a kernel: on the given stream of the current device, without a sync, every error thrown.
//
// There is no <<<>>>: the same line also compiles for the emulator (csrc/emulation), which runs the
// kernels on a CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "cuda/stream.h"

namespace sparrow::cuda {

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // reported here: the next call must not find it again
  throw std::runtime_error(std::string("sparrow_kernels: ") + what + ": " +
                           cudaGetErrorString(error));
}

struct Grid {
  int64_t blocks;  // along x; none at all launches nothing
  int threads;
  size_t shared_bytes = 0;  // dynamic
  int cluster = 1;          // blocks a cluster, sm_90 and later
  int64_t blocks_y = 1;
};

// Without opting in, a block gets this much shared memory, static and dynamic together.
inline constexpr size_t kSharedBytes = 48 * 1024;
// A kernel with dynamic shared memory has less than this of static.
inline constexpr size_t kMostStaticBytes = 1024;
// Opted in, at least this much on every GPU that is served (sm_86 has the least, 99 KiB).
inline constexpr size_t kMostSharedBytes = 96 * 1024;

inline bool fits_in_shared(size_t bytes) { return bytes <= kMostSharedBytes; }

// Every device with clusters runs this many blocks in one; for more it has to be asked.
inline constexpr int kPortableCluster = 8;

// Enough threads for `count` items, in whole warps, at least one warp and at most `most` threads.
inline int whole_warps(int64_t count, int most) {
  const int64_t threads = (count + 31) / 32 * 32;
  return static_cast<int>(threads < 32 ? 32 : threads > most ? most : threads);
}

template <typename... Params, typename... Args>
void launch(const char* name, void (*kernel)(Params...), const Grid& grid, Stream stream,
            const Args&... args) {
  if (grid.blocks == 0 || grid.blocks_y == 0) return;
  if (grid.blocks > INT32_MAX || grid.blocks_y > 65535) check(cudaErrorInvalidConfiguration, name);
  if (grid.shared_bytes > kSharedBytes - kMostStaticBytes) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(grid.shared_bytes)),
          name);
  }
  if (grid.cluster > kPortableCluster) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), name);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim =
      dim3(static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.blocks_y), 1);
  config.blockDim = dim3(static_cast<unsigned>(grid.threads), 1, 1);
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attribute = {};
  if (grid.cluster > 1) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(grid.cluster);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
    config.attrs = &attribute;
    config.numAttrs = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...), name);
}

}  // namespace sparrow::cuda
