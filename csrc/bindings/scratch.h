// Lends a driver memory from torch's allocator, on the device of the call.
#pragma once

#include <vector>

#include "bindings/arguments.h"
#include "kernels/scratch.h"

namespace sparrow::bindings {

// The tensors live as long as this does. On CUDA that may end before the kernels do: torch hands
// the memory on in the order of the stream.
class ScratchTensors {
 public:
  explicit ScratchTensors(const Tensor& like) : like_(like) {}
  ScratchTensors(const ScratchTensors&) = delete;
  ScratchTensors& operator=(const ScratchTensors&) = delete;

  Scratch lent() { return {this, &ScratchTensors::allocate}; }

 private:
  static void* allocate(void* owner, int64_t bytes) {
    auto* self = static_cast<ScratchTensors*>(owner);
    self->tensors_.push_back(empty(self->like_, ScalarType::Byte, {bytes}));
    return data<uint8_t>(self->tensors_.back());
  }

  const Tensor& like_;
  std::vector<Tensor> tensors_;
};

}  // namespace sparrow::bindings
