// Launches a kernel: on the given stream of the current device, without a sync, every error thrown.
//
// There is no <<<>>>: the same line also compiles for the emulator (csrc/emulation), which runs the
// kernels on a CPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <mutex>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>

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
  int cluster = 0;          // blocks a cluster, sm_90 and later; 0: the kernel knows of none
  int64_t blocks_y = 1;
  bool dependent = false;  // begins while the kernel before is at work, and waits (dependent.h)
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

inline int compute_major(const char* name) {
  int device = 0, major = 0;
  check(cudaGetDevice(&device), name);
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), name);
  return major;
}

// Lets a kernel take all the shared memory a block of the current device can have, and clusters of
// more than the portable size. Once a kernel and device, to the most there is: these are settings
// of the kernel, so one that followed a launch's size would be lowered by another thread's launch
// before its own.
template <typename... Params>
void allow_most(const char* name, void (*kernel)(Params...)) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  int device = 0;
  check(cudaGetDevice(&device), name);
  const std::pair key{reinterpret_cast<const void*>(kernel), device};
  const std::lock_guard<std::mutex> lock(mutex);
  if (allowed.count(key) != 0) return;
  int most = 0;
  cudaFuncAttributes own = {};
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), name);
  check(cudaFuncGetAttributes(&own, kernel), name);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             most - static_cast<int>(own.sharedSizeBytes)),
        name);
  if (compute_major(name) >= 9) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1), name);
  }
  allowed.insert(key);
}

template <typename... Params, typename... Args>
void launch(const char* name, void (*kernel)(Params...), const Grid& grid, Stream stream,
            const Args&... args) {
  if (grid.blocks == 0 || grid.blocks_y == 0) return;
  if (grid.blocks > INT32_MAX || grid.blocks_y > 65535) check(cudaErrorInvalidConfiguration, name);
  if (grid.shared_bytes > kSharedBytes - kMostStaticBytes || grid.cluster > kPortableCluster) {
    allow_most(name, kernel);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim =
      dim3(static_cast<unsigned>(grid.blocks), static_cast<unsigned>(grid.blocks_y), 1);
  config.blockDim = dim3(static_cast<unsigned>(grid.threads), 1, 1);
  // A compiled loop reads 16 bytes at a time, also of an array that ends within them.
  config.dynamicSmemBytes = (grid.shared_bytes + 15) / 16 * 16;
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (grid.cluster > 0) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = static_cast<unsigned>(grid.cluster);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
  }
  if (grid.dependent && compute_major(name) >= 9) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...), name);
}

}  // namespace sparrow::cuda
