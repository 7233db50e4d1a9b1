// The weights that committed slots receive, on a CPU: on a GPU their kernel is Triton's.
#include "cpu/attention_mass.h"

#include <optional>

#include "bindings/arguments.h"
#include "bindings/device.h"
#include "bindings/head_rows.h"
#include "bindings/library.h"
#include "cpu/attention.h"
#include "kernels/element.h"

namespace sparrow::bindings {
namespace {

// The arguments of one call.
struct Inputs {
  const Tensor &query, &key, &prefix_lens;
  float scale;
  BlockTable block_table;
  int64_t slots;  // of a request
};

// Of each row's scores: attention with the keys as values, whose result nobody takes.
template <typename Element>
Tensor log_sum_exp(const Inputs& in) {
  const Tensor& query = in.query;
  const int64_t batch = query.size(0), heads = query.size(1), rows = query.size(2);
  const Tensor out = empty(query, query.scalar_type(), {batch, heads, rows, query.size(3)});
  const Tensor lse = empty(query, ScalarType::Float, {batch, heads, rows});
  const auto keys = head_rows<const Element>(in.key);
  Visibility seen{};  // no words: no tree
  seen.prefix_lens = data<const int32_t>(in.prefix_lens);
  run(query, SPARROW_CPU_DRIVER(tree_attention<Element, Element>),
      TreeAttention<Element>{.batch = batch,
                             .heads = heads,
                             .kv_heads = in.key.size(1),
                             .num_rows = rows,
                             .capacity = in.slots,
                             .head_dim = query.size(3),
                             .query = head_rows<const Element>(query),
                             .key = keys,
                             .value = keys,
                             .key_scale = {},
                             .value_scale = {},
                             .block_table = in.block_table,
                             .key_bias = {},
                             .out = head_rows<Element>(out),
                             .lse = head_rows<float>(lse),
                             .visibility = seen,
                             .scale = in.scale,
                             .num_splits = 0});
  return lse;
}

template <typename Element>
void weigh(const Inputs& in, const std::optional<Tensor>& given, const Tensor& mass) {
  const Tensor lse = given ? *given : log_sum_exp<Element>(in);
  run(in.query, SPARROW_CPU_DRIVER(attention_mass<Element>),
      AttentionMass<Element>{.batch = in.query.size(0),
                             .heads = in.query.size(1),
                             .kv_heads = in.key.size(1),
                             .num_rows = in.query.size(2),
                             .capacity = in.slots,
                             .head_dim = in.query.size(3),
                             .query = head_rows<const Element>(in.query),
                             .key = head_rows<const Element>(in.key),
                             .block_table = in.block_table,
                             .lse = head_rows<const float>(lse),
                             .prefix_lens = data<const int32_t>(in.prefix_lens),
                             .mass = data<float>(mass),
                             .scale = in.scale});
}

Tensor attention_mass(const Tensor& query, const Tensor& key, const Tensor& prefix_lens,
                      double scale, const std::optional<Tensor>& block_table,
                      const std::optional<Tensor>& lse) {
  const Arguments arguments("attention_mass", query);
  const ScalarType dtype = query.scalar_type();
  arguments.check_dtype("query", query,
                        {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
  arguments.check_layout("query", query, {kAny, kAny, kAny, kAny});
  const int64_t batch = query.size(0), heads = query.size(1), num_rows = query.size(2);
  arguments.check("key", key, dtype, {block_table ? kAny : batch, kAny, kAny, query.size(3)});
  const int64_t kv_heads = key.size(1);
  if (kv_heads < 1 || heads % kv_heads != 0) {
    arguments.refuse("the number of heads of query", "a multiple of those of key",
                     std::to_string(heads));
  }
  arguments.check("prefix_lens", prefix_lens, ScalarType::Int, {batch});
  if (lse) arguments.check("lse", *lse, ScalarType::Float, {batch, heads, num_rows});
  int64_t slots = key.size(2);
  BlockTable table{};
  if (block_table) {
    arguments.check("block_table", *block_table, ScalarType::Int, {batch, kAny});
    slots *= block_table->size(1);
    // Pages are clamped to those there are: without one nothing can be read.
    if (key.size(0) == 0 && slots > 0) {
      arguments.refuse("key", "of one page at least", text(key.sizes()));
    }
    if (slots > 0) table = {rows<const int32_t>(*block_table), key.size(0), key.size(2)};
  }
  const Inputs in{query, key, prefix_lens, static_cast<float>(scale), table, slots};
  const Tensor mass = empty(query, ScalarType::Float, {batch, kv_heads, slots});
  switch (dtype) {
    case ScalarType::Half:
      weigh<Half>(in, lse, mass);
      break;
    case ScalarType::BFloat16:
      weigh<BFloat16>(in, lse, mass);
      break;
    default:
      weigh<float>(in, lse, mass);
  }
  return mass;
}

}  // namespace

SPARROW_IMPLEMENT_ON_CPU(library) { library.impl("attention_mass", TORCH_BOX(&attention_mass)); }

}  // namespace sparrow::bindings
