// Stands in for CUDA's own header, so that g++ compiles the .cu files and runs them on a CPU: what
// a machine without a GPU can prove about the kernels. For tests alone; see scheduler.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "emulation/scheduler.h"
#include "emulation/warp.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline
#define __noinline__
#define __restrict__
#define __grid_constant__
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

// --- types ---------------------------------------------------------------------------------------
#define SPARROW_VECTOR(name, Element, alignment)       \
  struct alignas(alignment) name##2 { Element x, y; }; \
  struct alignas(2 * alignment) name##4 { Element x, y, z, w; };
SPARROW_VECTOR(int, int, 8)
SPARROW_VECTOR(uint, unsigned, 8)
SPARROW_VECTOR(float, float, 8)
#undef SPARROW_VECTOR
struct alignas(16) ulonglong2 {
  unsigned long long x, y;
};
struct alignas(16) longlong2 {
  long long x, y;
};
inline int2 make_int2(int x, int y) { return {x, y}; }
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
using std::max;
using std::min;

// --- loads, stores, bits -------------------------------------------------------------------------
#define SPARROW_LOAD(name)   \
  template <typename T>      \
  T name(const T* address) { \
    return *address;         \
  }
SPARROW_LOAD(__ldg)
SPARROW_LOAD(__ldca)
SPARROW_LOAD(__ldcg)
SPARROW_LOAD(__ldcs)
SPARROW_LOAD(__ldcv)
#undef SPARROW_LOAD
#define SPARROW_STORE(name)                                     \
  template <typename T>                                         \
  void name(T* address, const std::type_identity_t<T>& value) { \
    *address = value;                                           \
  }
SPARROW_STORE(__stcg)
SPARROW_STORE(__stcs)
SPARROW_STORE(__stwb)
SPARROW_STORE(__stwt)
#undef SPARROW_STORE

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffsll(long long value) { return __builtin_ffsll(value); }
inline int __clz(int value) {
  return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value));
}
inline int __clzll(long long value) {
  return value == 0 ? 64 : __builtin_clzll(static_cast<unsigned long long>(value));
}
template <typename To, typename From>
To bits_as(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To bits;
  std::memcpy(&bits, &value, sizeof(To));
  return bits;
}
inline unsigned __float_as_uint(float value) { return bits_as<unsigned>(value); }
inline int __float_as_int(float value) { return bits_as<int>(value); }
inline float __uint_as_float(unsigned value) { return bits_as<float>(value); }
inline float __int_as_float(int value) { return bits_as<float>(value); }
inline long long __double_as_longlong(double value) { return bits_as<long long>(value); }
inline double __longlong_as_double(long long value) { return bits_as<double>(value); }
inline float __expf(float value) { return std::exp(value); }
inline float __logf(float value) { return std::log(value); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }

// --- atomics: a thread may be interrupted before each ----------------------------------------
// Their own access is one of its kind, not a plain one.
#define SPARROW_UNHOOKED __attribute__((noinline, no_sanitize("thread")))
namespace sparrow::emulation {
template <typename T>
void on_atomic(T* address) {
  maybe_interrupt();
  on_access(address, sizeof(T), Access::kAtomic);
}
}  // namespace sparrow::emulation
#define SPARROW_ATOMIC(name, expression)                               \
  template <typename T>                                                \
  SPARROW_UNHOOKED T name(T* address, std::type_identity_t<T> value) { \
    ::sparrow::emulation::on_atomic(address);                          \
    const T old = *address;                                            \
    *address = expression;                                             \
    return old;                                                        \
  }
SPARROW_ATOMIC(atomicAdd, old + value)
SPARROW_ATOMIC(atomicSub, old - value)
SPARROW_ATOMIC(atomicMin, value < old ? value : old)
SPARROW_ATOMIC(atomicMax, value > old ? value : old)
SPARROW_ATOMIC(atomicAnd, old& value)
SPARROW_ATOMIC(atomicOr, old | value)
SPARROW_ATOMIC(atomicXor, old ^ value)
SPARROW_ATOMIC(atomicExch, value)
SPARROW_ATOMIC(atomicInc, old >= value ? T{0} : old + T{1})
SPARROW_ATOMIC(atomicDec, old == 0 || old > value ? value : old - T{1})
#undef SPARROW_ATOMIC
template <typename T>
SPARROW_UNHOOKED T atomicCAS(T* address, std::type_identity_t<T> expected,
                             std::type_identity_t<T> value) {
  ::sparrow::emulation::on_atomic(address);
  const T old = *address;
  if (old == expected) *address = value;
  return old;
}
inline void __threadfence() {
  ::sparrow::emulation::on_fence();
  ::sparrow::emulation::maybe_interrupt();
}
inline void __threadfence_block() { ::sparrow::emulation::maybe_interrupt(); }
inline void __nanosleep(unsigned) { ::sparrow::emulation::maybe_interrupt(); }

// --- runtime -------------------------------------------------------------------------------------
enum cudaError_t { cudaSuccess, cudaErrorInvalidConfiguration, cudaErrorMemoryAllocation };
enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize,
  cudaFuncAttributeNonPortableClusterSizeAllowed
};
enum cudaLaunchAttributeID {
  cudaLaunchAttributeClusterDimension,
  cudaLaunchAttributeProgrammaticStreamSerialization
};
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin
};
using cudaStream_t = struct CUstream_st*;
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  struct {
    struct {
      unsigned x, y, z;
    } clusterDim;
    int programmaticStreamSerializationAllowed;
  } val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorInvalidConfiguration ? "invalid configuration" : "an error";
}
struct cudaFuncAttributes {
  size_t sharedSizeBytes;  // static; known here only once a kernel runs
};
template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, Kernel) {
  attributes->sharedSizeBytes = 0;
  return cudaSuccess;
}
// What sm_86 has for a block, the least of the GPUs that are served.
inline constexpr int kEmulatedSharedBytes = 99 * 1024;
// A kernel keeps what it was last allowed, whichever thread asked: as on a GPU.
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel kernel, cudaFuncAttribute attribute, int value) {
  if (value > kEmulatedSharedBytes) return cudaErrorInvalidConfiguration;
  ::sparrow::emulation::allow(reinterpret_cast<const void*>(kernel),
                              attribute == cudaFuncAttributeMaxDynamicSharedMemorySize, value);
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
// As if of a Hopper GPU, so that clusters run; SPARROW_EMULATED_MAJOR=8 tests what comes before.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const char* major = std::getenv("SPARROW_EMULATED_MAJOR");
  *value = attribute == cudaDevAttrMultiProcessorCount            ? 4
           : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? kEmulatedSharedBytes
           : major != nullptr                                     ? std::atoi(major)
                                                                  : 9;
  return cudaSuccess;
}

enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal, cudaStreamCaptureModeRelaxed };
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) {
  return cudaSuccess;
}
// A stream that is captured is the graph it is captured into: a test makes them.
using cudaGraph_t = struct CUstream_st*;
#define CUDART_CB
using cudaHostFn_t = void (*)(void*);
struct CUstream_st {
  std::vector<std::pair<cudaHostFn_t, void*>> user_objects;
};
using cudaUserObject_t = std::pair<cudaHostFn_t, void*>*;
inline constexpr unsigned cudaUserObjectNoDestructorSync = 1, cudaGraphUserObjectMove = 1;
inline cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status,
                                            unsigned long long*, cudaGraph_t* graph) {
  *status = stream == nullptr ? cudaStreamCaptureStatusNone : cudaStreamCaptureStatusActive;
  *graph = stream;
  return cudaSuccess;
}
inline cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void* data, cudaHostFn_t destroy,
                                        unsigned, unsigned) {
  *object = new std::pair{destroy, data};
  return cudaSuccess;
}
inline cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned,
                                             unsigned) {
  graph->user_objects.push_back(*object);
  delete object;
  return cudaSuccess;
}
inline cudaError_t cudaStreamGetId(cudaStream_t, unsigned long long* id) {
  *id = 1;
  return cudaSuccess;
}
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
inline cudaError_t cudaMalloc(void** memory, size_t bytes) {
  *memory = std::malloc(bytes);
  return *memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}
inline cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

template <typename... Params>
cudaError_t cudaOccupancyMaxActiveClusters(int* clusters, void (*)(Params...),
                                           const cudaLaunchConfig_t*) {
  *clusters = 1;
  return cudaSuccess;
}

template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  const unsigned threads = config->blockDim.x * config->blockDim.y * config->blockDim.z;
  if (threads == 0 || threads > 1024) return cudaErrorInvalidConfiguration;
  unsigned cluster = 1;
  bool is_dependent = false;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttribute& attribute = config->attrs[i];
    if (attribute.id == cudaLaunchAttributeClusterDimension) {
      cluster = attribute.val.clusterDim.x;
    } else {
      is_dependent = attribute.val.programmaticStreamSerializationAllowed != 0;
    }
  }
  if (config->gridDim.x % cluster != 0) return cudaErrorInvalidConfiguration;
  const auto allowed = ::sparrow::emulation::allowed(reinterpret_cast<const void*>(kernel));
  if (config->dynamicSmemBytes > static_cast<size_t>(allowed.shared_bytes) ||
      cluster > (allowed.any_cluster ? 16u : 8u)) {
    return cudaErrorInvalidConfiguration;
  }
  std::tuple<Params...> copies(args...);
  ::sparrow::emulation::run_grid(
      {config->gridDim, config->blockDim, config->dynamicSmemBytes, cluster, is_dependent},
      [&] { std::apply(kernel, copies); });
  return cudaSuccess;
}
