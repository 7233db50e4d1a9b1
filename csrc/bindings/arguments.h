// Checks of tensor arguments and allocation of results, the same for every op.
//
// What is wrong with an argument is said as std::invalid_argument, which arrives in Python as
// ValueError. Rank, shape, dtype, device, dense rows and that there is memory behind them are
// checked here, so that raw pointers are safe to follow; values are not.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "kernels/common.h"

namespace sparrow::bindings {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using TensorList = std::vector<Tensor>;
using Shape = torch::headeronly::IntHeaderOnlyArrayRef;  // of a call's full expression only

inline constexpr int64_t kAny = -1;  // in a Shape: any size

std::string text(Shape shape);  // such as "[2, 32]"; "*" for kAny

// The arguments of one call: all on the device of the first.
class Arguments {
 public:
  Arguments(const char* op, const Tensor& first) : op_(op), device_(first.device()) {}

  // dtype, device, shape, which may hold kAny, and that the last dim is contiguous.
  void check(const char* argument, const Tensor& tensor, ScalarType dtype, Shape shape) const;
  void check_dtype(const char* argument, const Tensor& tensor,
                   std::initializer_list<ScalarType> dtypes) const;
  void check_device(const char* argument, const Tensor& tensor) const;
  void check_layout(const char* argument, const Tensor& tensor, Shape shape) const;
  // A storage may have been freed or made shorter under a tensor that keeps its shape.
  void check_memory(const char* argument, const Tensor& tensor) const;
  void check_in(const char* argument, int64_t value, int64_t low, int64_t high) const;
  void check_at_least(const char* argument, int64_t value, int64_t low) const;
  [[noreturn]] void refuse(const char* argument, const std::string& must_be,
                           const std::string& got) const;

 private:
  const char* op_;
  torch::stable::Device device_;
};

// Bytes from the first element of a tensor to behind its last, 0 where there is none.
int64_t extent(const Tensor& tensor);

// Whether each stride leads past all that the shorter ones reach, so that no two elements meet.
bool strides_nest(const Tensor& tensor);

// Whether the bytes from first to last element of two tensors may be the same: rows of one slab may
// lie between one another and share none.
bool may_overlap(const Tensor& one, const Tensor& other);

// An uninitialised contiguous tensor on the device of `like`.
Tensor empty(const Tensor& like, ScalarType dtype, Shape shape);

template <typename T>
T* data(const Tensor& tensor) {
  if constexpr (std::is_const_v<T>) {
    return static_cast<T*>(tensor.const_data_ptr());
  } else {
    return static_cast<T*>(tensor.mutable_data_ptr());
  }
}

// The rows of a 2-D tensor whose dtype has been checked to be T.
template <typename T>
Rows<T> rows(const Tensor& tensor) {
  return {data<T>(tensor), tensor.stride(0)};
}

}  // namespace sparrow::bindings
