// Appending to the cache.
#include <string>

#include "bindings/arguments.h"
#include "bindings/caches.h"
#include "bindings/device.h"
#include "bindings/head_rows.h"
#include "bindings/library.h"
#include "bindings/scales.h"
#include "cpu/append.h"
#include "cuda/append.h"
#include "kernels/element.h"

namespace sparrow::bindings {
namespace {

// One row for each new token and head, and the caches they go to; where the slots lie in these.
Pages check_append(const Arguments& arguments, const Tensor& key, const Tensor& value,
                   const Tensor& key_cache, const Tensor& value_cache, const Tensor& prefix_lens,
                   const OptionalTensor& block_table) {
  const ScalarType dtype = key.scalar_type();
  arguments.check_layout("key", key, {kAny, kAny, kAny, kAny});
  const int64_t batch = key.size(0), heads = key.size(1), head_dim = key.size(3);
  arguments.check("value", value, dtype, {batch, heads, key.size(2), head_dim});
  arguments.check_dtype("key_cache", key_cache, {dtype, ScalarType::Float8_e4m3fn});
  arguments.check_layout("key_cache", key_cache,
                         {block_table ? kAny : batch, heads, kAny, head_dim});
  arguments.check("value_cache", value_cache, key_cache.scalar_type(), key_cache.sizes());
  arguments.check("prefix_lens", prefix_lens, ScalarType::Int, {batch});
  return pages_of(arguments, block_table, batch, key_cache.size(0), key_cache.size(2));
}

// The tensors of new rows and what they go to, checked, for a cache of Float8.
template <typename Element>
AppendFloat8<Element> to_float8(const Arguments& arguments, const Tensor& key, const Tensor& value,
                                const Tensor& key_cache, const Tensor& value_cache,
                                const Tensor& prefix_lens, const Pages& pages,
                                const OptionalTensor& key_scale,
                                const OptionalTensor& value_scale) {
  const int64_t batch = key.size(0);
  return {.batch = batch,
          .heads = key.size(1),
          .num_rows = key.size(2),
          .head_dim = key.size(3),
          .key = head_rows<const Element>(key),
          .value = head_rows<const Element>(value),
          .key_cache = head_rows<Float8>(key_cache),
          .value_cache = head_rows<Float8>(value_cache),
          .key_scale = head_scales(arguments, "key_scale", key_scale, batch, key_cache),
          .value_scale = head_scales(arguments, "value_scale", value_scale, batch, value_cache),
          .pages = pages,
          .prefix_lens = data<const int32_t>(prefix_lens)};
}

void append_cache_(const Tensor& key, const Tensor& value, const Tensor& key_cache,
                   const Tensor& value_cache, const Tensor& prefix_lens,
                   const OptionalTensor& block_table, const OptionalTensor& key_scale,
                   const OptionalTensor& value_scale) {
  const Arguments arguments("append_cache_", key);
  const Pages pages =
      check_append(arguments, key, value, key_cache, value_cache, prefix_lens, block_table);
  if (key.scalar_type() != key_cache.scalar_type()) {
    const auto append = [&]<typename Element>(Element) {
      run(key, SPARROW_CPU_DRIVER(append_float8<Element>),
          to_float8<Element>(arguments, key, value, key_cache, value_cache, prefix_lens, pages,
                             key_scale, value_scale));
    };
    arguments.check_dtype("key", key, {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
    if (key.scalar_type() == ScalarType::Half) return append(Half{});
    if (key.scalar_type() == ScalarType::BFloat16) return append(BFloat16{});
    return append(float{});
  }
  if (key_scale || value_scale) {
    arguments.refuse("key_scale and value_scale", "left out where rows are stored as they are",
                     "a scale");
  }
  const int64_t element = static_cast<int64_t>(key.element_size());
  run(key, SPARROW_DRIVERS(append_cache),
      AppendCache{.batch = key.size(0),
                  .heads = key.size(1),
                  .num_rows = key.size(2),
                  .row_bytes = key.size(3) * element,
                  .key = head_rows<const char>(key, element),
                  .value = head_rows<const char>(value, element),
                  .key_cache = head_rows<char>(key_cache, element),
                  .value_cache = head_rows<char>(value_cache, element),
                  .pages = pages,
                  .prefix_lens = data<const int32_t>(prefix_lens)});
}

// The tensors of one rotate_append_, checked.
struct RotateTensors {
  const Tensor &query, &key, &value, &cos, &sin, &key_cache, &value_cache, &prefix_lens, &rotated;
  Pages pages;
  const OptionalTensor &key_scale, &value_scale;
};

template <typename Angle>
AngleRows<Angle> angle_rows(const Tensor& tensor) {
  return {{data<const Angle>(tensor), tensor.stride(1)}, tensor.stride(0)};
}

template <typename Element, typename Angle>
void rotate(const RotateTensors& t) {
  const Arguments arguments("rotate_append_", t.query);
  if (is_float8(t.key_cache)) {
    return run(t.query, SPARROW_CPU_DRIVER(rotate_append_float8<Element, Angle>),
               RotateAppendFloat8<Element, Angle>{
                   .rows = to_float8<Element>(arguments, t.key, t.value, t.key_cache, t.value_cache,
                                              t.prefix_lens, t.pages, t.key_scale, t.value_scale),
                   .query_heads = t.query.size(1),
                   .query = head_rows<const Element>(t.query),
                   .query_out = head_rows<Element>(t.rotated),
                   .cos = angle_rows<Angle>(t.cos),
                   .sin = angle_rows<Angle>(t.sin)});
  }
  if (t.key_scale || t.value_scale) {
    arguments.refuse("key_scale and value_scale", "left out where rows are stored as they are",
                     "a scale");
  }
  run(t.query, SPARROW_DRIVERS(rotate_append<Element, Angle>),
      RotateAppend<Element, Angle>{.batch = t.query.size(0),
                                   .query_heads = t.query.size(1),
                                   .heads = t.key.size(1),
                                   .num_rows = t.query.size(2),
                                   .head_dim = t.query.size(3),
                                   .query = head_rows<const Element>(t.query),
                                   .key = head_rows<const Element>(t.key),
                                   .value = head_rows<const Element>(t.value),
                                   .query_out = head_rows<Element>(t.rotated),
                                   .key_cache = head_rows<Element>(t.key_cache),
                                   .value_cache = head_rows<Element>(t.value_cache),
                                   .cos = angle_rows<Angle>(t.cos),
                                   .sin = angle_rows<Angle>(t.sin),
                                   .pages = t.pages,
                                   .prefix_lens = data<const int32_t>(t.prefix_lens)});
}

using Rotate = void (*)(const RotateTensors&);

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
                      const Tensor& value_cache, const Tensor& prefix_lens,
                      const OptionalTensor& block_table, const OptionalTensor& key_scale,
                      const OptionalTensor& value_scale) {
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
  const Pages pages =
      check_append(arguments, key, value, key_cache, value_cache, prefix_lens, block_table);
  arguments.check_dtype("cos", cos, {ScalarType::Float, dtype});
  arguments.check_layout("cos", cos, {batch, num_rows, head_dim});
  arguments.check("sin", sin, cos.scalar_type(), {batch, num_rows, head_dim});

  const Tensor rotated = empty(query, dtype, {batch, query.size(1), num_rows, head_dim});
  const Rotate rotate_all = rotate_for(dtype, cos.scalar_type());
  rotate_all({query, key, value, cos, sin, key_cache, value_cache, prefix_lens, rotated, pages,
              key_scale, value_scale});
  return rotated;
}

}  // namespace

SPARROW_IMPLEMENT(attention, library) {
  library.impl("append_cache_", TORCH_BOX(&append_cache_));
  library.impl("rotate_append_", TORCH_BOX(&rotate_append_));
}

}  // namespace sparrow::bindings
