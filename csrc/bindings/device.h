// Hands a checked call to the driver of its tensors' device.
#pragma once

#include <stdexcept>
#include <type_traits>

#include "bindings/arguments.h"
#include "cuda/stream.h"

// Both drivers of one op, named alike: `run(tensor, SPARROW_DRIVERS(build_tree), call)`. A build
// without CUDA names only the first, the emulated one (csrc/emulation) only the second.
#if defined(SPARROW_EMULATION)
#define SPARROW_DRIVERS(...) nullptr, &cuda::__VA_ARGS__
#elif defined(SPARROW_WITH_CUDA)
#define SPARROW_DRIVERS(...) &cpu::__VA_ARGS__, &cuda::__VA_ARGS__
#else
#define SPARROW_DRIVERS(...) &cpu::__VA_ARGS__, nullptr
#endif
// An op that has no CUDA driver.
#if defined(SPARROW_EMULATION)
#define SPARROW_CPU_DRIVER(...) nullptr, nullptr
#else
#define SPARROW_CPU_DRIVER(...) &cpu::__VA_ARGS__, nullptr
#endif

namespace sparrow::bindings {

// Makes a device current while it lives, and knows the stream torch has current there.
class CurrentDevice {
 public:
  explicit CurrentDevice(int32_t index);
  ~CurrentDevice();
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;

  cuda::Stream stream() const { return stream_; }

 private:
  void* guard_ = nullptr;
  cuda::Stream stream_ = nullptr;
};

template <typename Call>
using CpuDriver = void (*)(const Call&);
template <typename Call>
using CudaDriver = void (*)(const Call&, cuda::Stream);

// Runs `call` on the device of `on`, with one of two drivers, of which either may be null.
template <typename Call>
void run(const Tensor& on, std::type_identity_t<CpuDriver<Call>> on_cpu,
         std::type_identity_t<CudaDriver<Call>> on_cuda, const Call& call) {
#if defined(SPARROW_EMULATION)
  if (on_cuda != nullptr) return on_cuda(call, nullptr);
#else
  if (on.is_cpu()) return on_cpu(call);
  if (on.is_cuda() && on_cuda != nullptr) {
    const CurrentDevice device(on.get_device_index());
    return on_cuda(call, device.stream());
  }
#endif
  throw std::runtime_error("sparrow_kernels: the native library has no driver for this device");
}

}  // namespace sparrow::bindings
