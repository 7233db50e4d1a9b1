// The rows of a tensor [B, heads, rows, D] or, without its last dim, of a log-sum-exp.
#pragma once

#include <algorithm>

#include "bindings/arguments.h"
#include "kernels/attention/call.h"

namespace sparrow::bindings {

// Strides count `unit`: 1 for elements, an element's size where T is a byte.
template <typename T>
HeadRows<T> head_rows(const Tensor& tensor, int64_t unit = 1) {
  return {data<T>(tensor), tensor.stride(0) * unit, tensor.stride(1) * unit,
          tensor.stride(2) * unit};
}

// A log-sum-exp [B, heads, rows], of any strides.
inline void check_lse(const Arguments& arguments, const char* name, const Tensor& lse,
                      Shape shape) {
  const Shape sizes = lse.sizes();
  arguments.check_dtype(name, lse, {ScalarType::Float});
  if (!std::equal(sizes.begin(), sizes.end(), shape.begin(), shape.end()) || !lse.is_cpu()) {
    arguments.refuse(name, text(shape) + " on the CPU", text(sizes));
  }
}

}  // namespace sparrow::bindings
