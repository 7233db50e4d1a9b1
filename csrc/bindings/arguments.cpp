#include "bindings/arguments.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

namespace sparrow::bindings {
namespace {

constexpr size_t kMaxRank = 64;  // of any torch tensor

bool fits(Shape sizes, Shape shape) {
  return std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end(),
                    [](int64_t size, int64_t wanted) { return wanted == kAny || size == wanted; });
}

}  // namespace

int64_t extent(const Tensor& tensor) {
  const Shape sizes = tensor.sizes(), strides = tensor.strides();
  int64_t last = 0;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 0) return 0;
    last += (sizes[d] - 1) * strides[d];
  }
  return (last + 1) * static_cast<int64_t>(tensor.element_size());
}

bool strides_nest(const Tensor& tensor) {
  const Shape sizes = tensor.sizes(), strides = tensor.strides();
  std::array<std::pair<int64_t, int64_t>, kMaxRank> steps;  // strides, and how far they reach
  size_t rank = 0;
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] > 1) steps.at(rank++) = {strides[d], (sizes[d] - 1) * strides[d]};
  }
  std::sort(steps.begin(), steps.begin() + rank);
  int64_t reach = 0;
  for (size_t k = 0; k < rank; ++k) {
    if (steps[k].first <= reach) return false;
    reach += steps[k].second;
  }
  return true;
}

bool may_overlap(const Tensor& one, const Tensor& other) {
  const char* const begin = data<const char>(one);
  const char* const others = data<const char>(other);
  const int64_t size = extent(one), others_size = extent(other);
  return size > 0 && others_size > 0 && begin < others + others_size && others < begin + size;
}

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
  check_memory(argument, tensor);
  if (sizes.empty() || sizes[sizes.size() - 1] <= 1) return;
  const int64_t stride = tensor.stride(static_cast<int64_t>(sizes.size()) - 1);
  if (stride != 1)
    refuse(argument, "contiguous in its last dim", "stride " + std::to_string(stride));
}

void Arguments::check_memory(const char* argument, const Tensor& tensor) const {
  int64_t bytes = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &bytes));
  const int64_t needed = extent(tensor);
  const int64_t before = tensor.storage_offset() * static_cast<int64_t>(tensor.element_size());
  if (needed == 0 || before + needed <= bytes) return;
  refuse(argument, "in a storage of " + std::to_string(before + needed) + " bytes or more",
         std::to_string(bytes));
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
