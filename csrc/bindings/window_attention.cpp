// Whole-sequence attention and its gradients, on a CPU: on a GPU their kernels are Triton's.
#include "cpu/window_attention.h"

#include <algorithm>
#include <optional>

#include "bindings/arguments.h"
#include "bindings/device.h"
#include "bindings/head_rows.h"
#include "bindings/library.h"
#include "bindings/scratch.h"
#include "kernels/element.h"

namespace sparrow::bindings {
namespace {

using MaybeTensor = std::optional<Tensor>;

void check_inputs(const Arguments& arguments, const Tensor& query, const Tensor& key,
                  const Tensor& value, const Tensor& anchor_mask, int64_t window) {
  const ScalarType dtype = query.scalar_type();
  arguments.check_dtype("query", query,
                        {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
  arguments.check_layout("query", query, {kAny, kAny, kAny, kAny});
  const int64_t batch = query.size(0), heads = query.size(1), head_dim = query.size(3);
  arguments.check("key", key, dtype, {batch, kAny, kAny, head_dim});
  const int64_t kv_heads = key.size(1), length = key.size(2);
  arguments.check("value", value, dtype, {batch, kv_heads, length, head_dim});
  if (kv_heads < 1 || heads % kv_heads != 0) {
    arguments.refuse("the number of heads of query", "a multiple of those of key",
                     std::to_string(heads));
  }
  arguments.check_in("the number of rows of query", query.size(2), 0, length);
  arguments.check("anchor_mask", anchor_mask, ScalarType::Bool, {batch, length});
  arguments.check_at_least("window", window, 0);
}

WindowShape shape_of(const Tensor& query, const Tensor& key, const Tensor& anchor_mask,
                     int64_t window, double scale) {
  return {.batch = query.size(0),
          .heads = query.size(1),
          .kv_heads = key.size(1),
          .num_rows = query.size(2),
          .length = key.size(2),
          .head_dim = query.size(3),
          .window = window,
          .anchors = rows<const bool>(anchor_mask),
          .scale = static_cast<float>(scale)};
}

std::tuple<Tensor, Tensor> anchored_window_attention(const Tensor& query, const Tensor& key,
                                                     const Tensor& value, const Tensor& anchor_mask,
                                                     int64_t window, double scale) {
  check_inputs(Arguments("anchored_window_attention", query), query, key, value, anchor_mask,
               window);
  const int64_t batch = query.size(0), heads = query.size(1), num_rows = query.size(2);
  const Tensor out = empty(query, query.scalar_type(), {batch, heads, num_rows, query.size(3)});
  const Tensor lse = empty(query, ScalarType::Float, {batch, heads, num_rows});
  ScratchTensors scratch(query);
  const auto attend = [&]<typename Element>() {
    run(query, SPARROW_CPU_DRIVER(window_attention<Element>),
        WindowAttention<Element>{.shape = shape_of(query, key, anchor_mask, window, scale),
                                 .query = head_rows<const Element>(query),
                                 .key = head_rows<const Element>(key),
                                 .value = head_rows<const Element>(value),
                                 .out = head_rows<Element>(out),
                                 .lse = head_rows<float>(lse),
                                 .scratch = scratch.lent()});
  };
  switch (query.scalar_type()) {
    case ScalarType::Half:
      attend.operator()<Half>();
      break;
    case ScalarType::BFloat16:
      attend.operator()<BFloat16>();
      break;
    default:
      attend.operator()<float>();
  }
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor> anchored_window_attention_backward(
    const Tensor& grad, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& out, const Tensor& lse, const Tensor& anchor_mask, int64_t window, double scale,
    const MaybeTensor& grad_lse) {
  const Arguments arguments("anchored_window_attention_backward", query);
  check_inputs(arguments, query, key, value, anchor_mask, window);
  const ScalarType dtype = query.scalar_type();
  const int64_t batch = query.size(0), heads = query.size(1), num_rows = query.size(2);
  arguments.check("grad", grad, dtype, query.sizes());
  arguments.check("out", out, dtype, query.sizes());
  check_lse(arguments, "lse", lse, {batch, heads, num_rows});
  if (grad_lse) check_lse(arguments, "grad_lse", *grad_lse, {batch, heads, num_rows});
  const Tensor d_query = empty(query, dtype, query.sizes()), d_key = empty(key, dtype, key.sizes());
  const Tensor d_value = empty(value, dtype, value.sizes());
  ScratchTensors scratch(query);
  const auto differentiate = [&]<typename Element>() {
    run(query, SPARROW_CPU_DRIVER(window_gradients<Element>),
        WindowGradients<Element>{
            .shape = shape_of(query, key, anchor_mask, window, scale),
            .grad = head_rows<const Element>(grad),
            .query = head_rows<const Element>(query),
            .key = head_rows<const Element>(key),
            .value = head_rows<const Element>(value),
            .out = head_rows<const Element>(out),
            .lse = head_rows<const float>(lse),
            .grad_lse = grad_lse ? head_rows<const float>(*grad_lse) : HeadRows<const float>{},
            .d_query = head_rows<Element>(d_query),
            .d_key = head_rows<Element>(d_key),
            .d_value = head_rows<Element>(d_value),
            .scratch = scratch.lent()});
  };
  switch (dtype) {
    case ScalarType::Half:
      differentiate.operator()<Half>();
      break;
    case ScalarType::BFloat16:
      differentiate.operator()<BFloat16>();
      break;
    default:
      differentiate.operator()<float>();
  }
  return {d_query, d_key, d_value};
}

}  // namespace

SPARROW_IMPLEMENT_ON_CPU(library) {
  library.impl("anchored_window_attention", TORCH_BOX(&anchored_window_attention));
  library.impl("anchored_window_attention_backward",
               TORCH_BOX(&anchored_window_attention_backward));
}

}  // namespace sparrow::bindings
