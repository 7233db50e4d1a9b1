#include "bindings/arguments.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <array>
#include <stdexcept>

namespace sparrow::bindings {
namespace {

constexpr size_t kMaxRank = 64;  // of any torch tensor

bool fits(Shape sizes, Shape shape) {
  return std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end(),
                    [](int64_t size, int64_t wanted) { return wanted == kAny || size == wanted; });
}

}  // namespace

std::string text(Shape shape) {
  std::string words = "[";
  for (size_t d = 0; d < shape.size(); ++d) {
    if (d > 0) words += ", ";
    words += shape[d] == kAny ? "*" : std::to_string(shape[d]);
  }
  return words + "]";
}

void Arguments::refuse(const char* argument, const std::string& must_be,
                       const std::string& got) const {
  throw std::invalid_argument(std::string(op_) + ": " + argument + " must be " + must_be +
                              ", got " + got);
}

void Arguments::check(const char* argument, const Tensor& tensor, ScalarType dtype,
                      Shape shape) const {
  check_dtype(argument, tensor, {dtype});
  check_layout(argument, tensor, shape);
}

void Arguments::check_dtype(const char* argument, const Tensor& tensor,
                            std::initializer_list<ScalarType> dtypes) const {
  const ScalarType dtype = tensor.scalar_type();
  if (std::find(dtypes.begin(), dtypes.end(), dtype) != dtypes.end()) return;
  std::string names;
  for (const ScalarType allowed : dtypes) {
    if (!names.empty()) names += " or ";
    names += torch::headeronly::toString(allowed);
  }
  refuse(argument, names, torch::headeronly::toString(dtype));
}

void Arguments::check_device(const char* argument, const Tensor& tensor) const {
  if (tensor.device() != device_) refuse(argument, "on the call's device", "another device");
}

void Arguments::check_layout(const char* argument, const Tensor& tensor, Shape shape) const {
  check_device(argument, tensor);
  const Shape sizes = tensor.sizes();
  if (!fits(sizes, shape)) refuse(argument, text(shape), text(sizes));
  if (sizes.empty() || sizes[sizes.size() - 1] <= 1) return;
  const int64_t stride = tensor.stride(static_cast<int64_t>(sizes.size()) - 1);
  if (stride != 1)
    refuse(argument, "contiguous in its last dim", "stride " + std::to_string(stride));
}

void Arguments::check_in(const char* argument, int64_t value, int64_t low, int64_t high) const {
  if (value >= low && value <= high) return;
  refuse(argument, "in [" + std::to_string(low) + ", " + std::to_string(high) + "]",
         std::to_string(value));
}

void Arguments::check_at_least(const char* argument, int64_t value, int64_t low) const {
  if (value < low) refuse(argument, "at least " + std::to_string(low), std::to_string(value));
}

Tensor empty(const Tensor& like, ScalarType dtype, Shape shape) {
  std::array<int64_t, kMaxRank> strides;
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    strides.at(d) = stride;
    stride *= std::max<int64_t>(1, shape[d]);
  }
  const auto device = like.device();
  // Straight to the allocator: new_empty would go round by the dispatcher, which a decode step
  // would pay for a dozen times.
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(shape.size()), shape.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(device.type())),
      device.index(), &handle));
  return Tensor(handle);
}

}  // namespace sparrow::bindings
