// The scales of Float8 caches.
#pragma once

#include <optional>

#include "bindings/arguments.h"
#include "kernels/attention/call.h"

namespace sparrow::bindings {

inline bool is_float8(const Tensor& cache) {
  return cache.scalar_type() == ScalarType::Float8_e4m3fn;
}

// One for each request and head, or for all of either; none where `cache` has another dtype.
inline HeadScales head_scales(const Arguments& arguments, const char* name,
                              const std::optional<Tensor>& scale, int64_t batch,
                              const Tensor& cache) {
  if (!scale) return {};
  if (!is_float8(cache)) {
    arguments.refuse(name, "left out beside a cache that is not float8_e4m3fn", "a scale");
  }
  arguments.check(name, *scale, ScalarType::Float, {kAny, kAny});
  const int64_t most[] = {batch, cache.size(1)};
  for (const int dim : {0, 1}) {
    if (scale->size(dim) != 1 && scale->size(dim) != most[dim]) {
      arguments.refuse(name, text(most) + " or 1 in either", text(scale->sizes()));
    }
  }
  return {data<const float>(*scale), scale->size(0) == 1 ? 0 : scale->stride(0),
          scale->size(1) == 1 ? 0 : scale->stride(1)};
}

}  // namespace sparrow::bindings
