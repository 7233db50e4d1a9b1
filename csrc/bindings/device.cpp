#include "bindings/device.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

// A CPU torch has no such function: weak, so that this library loads beside it all the same.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream)
    __attribute__((weak));

namespace sparrow::bindings {

CurrentDevice::CurrentDevice(int32_t index) {
  if (aoti_torch_get_current_cuda_stream == nullptr) {
    throw std::runtime_error("sparrow_kernels: this torch has no CUDA");
  }
  DeviceGuardHandle guard = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_create_device_guard(index, &guard));
  guard_ = guard;
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &stream));
  stream_ = static_cast<cuda::Stream>(stream);
}

CurrentDevice::~CurrentDevice() {
  // A destructor has nobody to tell of an error.
  if (guard_ != nullptr) aoti_torch_delete_device_guard(static_cast<DeviceGuardHandle>(guard_));
}

}  // namespace sparrow::bindings
