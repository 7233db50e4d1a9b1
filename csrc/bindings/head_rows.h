// The rows of a tensor [B, heads, rows, D] or, without its last dim, of a log-sum-exp.
#pragma once

#include "bindings/arguments.h"
#include "kernels/attention/call.h"

namespace sparrow::bindings {

// Strides count `unit`: 1 for elements, an element's size where T is a byte.
template <typename T>
HeadRows<T> head_rows(const Tensor& tensor, int64_t unit = 1) {
  return {data<T>(tensor), tensor.stride(0) * unit, tensor.stride(1) * unit,
          tensor.stride(2) * unit};
}

}  // namespace sparrow::bindings
