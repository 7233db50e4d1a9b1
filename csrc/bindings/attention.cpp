// Appending to the cache on CPU tensors.
#include <torch/csrc/stable/library.h>

#include <string>

#include "bindings/arguments.h"
#include "cpu/append.h"
#include "kernels/element.h"

namespace sparrow::bindings {
namespace {

template <typename T>
cpu::HeadRows<T> head_rows(const Tensor& tensor, int64_t unit) {
  return {data<T>(tensor), tensor.stride(0) * unit, tensor.stride(1) * unit,
          tensor.stride(2) * unit};
}

// One row for each new token and head, and the caches they go to.
void check_append(const Arguments& arguments, const Tensor& key, const Tensor& value,
                  const Tensor& key_cache, const Tensor& value_cache, const Tensor& prefix_lens) {
  const ScalarType dtype = key.scalar_type();
  arguments.check_layout("key", key, {kAny, kAny, kAny, kAny});
  const int64_t batch = key.size(0), heads = key.size(1), head_dim = key.size(3);
  arguments.check("value", value, dtype, {batch, heads, key.size(2), head_dim});
  arguments.check("key_cache", key_cache, dtype, {batch, heads, kAny, head_dim});
  arguments.check("value_cache", value_cache, dtype, {batch, heads, key_cache.size(2), head_dim});
  arguments.check("prefix_lens", prefix_lens, ScalarType::Int, {batch});
}

void append(const Tensor& rows_in, const Tensor& cache, const Tensor& prefix_lens) {
  const int64_t element = static_cast<int64_t>(rows_in.element_size());
  cpu::append_rows({.batch = rows_in.size(0),
                    .heads = rows_in.size(1),
                    .num_rows = rows_in.size(2),
                    .capacity = cache.size(2),
                    .row_bytes = rows_in.size(3) * element,
                    .from = head_rows<const char>(rows_in, element),
                    .cache = head_rows<char>(cache, element),
                    .prefix_lens = data<const int32_t>(prefix_lens)});
}

void append_cache_(const Tensor& key, const Tensor& value, const Tensor& key_cache,
                   const Tensor& value_cache, const Tensor& prefix_lens) {
  check_append(Arguments("append_cache_", key), key, value, key_cache, value_cache, prefix_lens);
  append(key, key_cache, prefix_lens);
  append(value, value_cache, prefix_lens);
}

template <typename Element, typename Angle>
void rotate(const Tensor& from, const Tensor& to, const Tensor& cos, const Tensor& sin,
            const int32_t* prefix_lens) {
  cpu::rotate_rows<Element, Angle>({.batch = from.size(0),
                                    .heads = from.size(1),
                                    .num_rows = from.size(2),
                                    .head_dim = from.size(3),
                                    .from = head_rows<const Element>(from, 1),
                                    .to = head_rows<Element>(to, 1),
                                    .prefix_lens = prefix_lens,
                                    .capacity = to.size(2),
                                    .cos = {data<const Angle>(cos), cos.stride(1)},
                                    .sin = {data<const Angle>(sin), sin.stride(1)},
                                    .cos_batch_stride = cos.stride(0),
                                    .sin_batch_stride = sin.stride(0)});
}

using Rotate = void (*)(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const int32_t*);

Rotate rotate_for(ScalarType element, ScalarType angle) {
  const bool is_float_angle = angle == ScalarType::Float;
  if (element == ScalarType::Half) {
    return is_float_angle ? &rotate<Half, float> : &rotate<Half, Half>;
  }
  if (element == ScalarType::BFloat16) {
    return is_float_angle ? &rotate<BFloat16, float> : &rotate<BFloat16, BFloat16>;
  }
  return &rotate<float, float>;
}

Tensor rotate_append_(const Tensor& query, const Tensor& key, const Tensor& value,
                      const Tensor& cos, const Tensor& sin, const Tensor& key_cache,
                      const Tensor& value_cache, const Tensor& prefix_lens) {
  const Arguments arguments("rotate_append_", query);
  const ScalarType dtype = query.scalar_type();
  arguments.check_dtype("query", query,
                        {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
  arguments.check_layout("query", query, {kAny, kAny, kAny, kAny});
  const int64_t batch = query.size(0), num_rows = query.size(2), head_dim = query.size(3);
  if (head_dim % 2 != 0) {
    arguments.refuse("the head dim of query", "even", std::to_string(head_dim));
  }
  arguments.check("key", key, dtype, {batch, kAny, num_rows, head_dim});
  check_append(arguments, key, value, key_cache, value_cache, prefix_lens);
  arguments.check_dtype("cos", cos, {ScalarType::Float, dtype});
  arguments.check_layout("cos", cos, {batch, num_rows, head_dim});
  arguments.check("sin", sin, cos.scalar_type(), {batch, num_rows, head_dim});

  const Tensor rotated = empty(query, dtype, {batch, query.size(1), num_rows, head_dim});
  const Rotate rotate_rows = rotate_for(dtype, cos.scalar_type());
  rotate_rows(query, rotated, cos, sin, nullptr);
  rotate_rows(key, key_cache, cos, sin, data<const int32_t>(prefix_lens));
  append(value, value_cache, prefix_lens);
  return rotated;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparrow_native, CPU, library) {
  library.impl("append_cache_", TORCH_BOX(&append_cache_));
  library.impl("rotate_append_", TORCH_BOX(&rotate_append_));
}

}  // namespace sparrow::bindings
