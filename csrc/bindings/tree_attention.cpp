// Tree attention on a CPU: on a GPU its kernels are Triton's.
#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>

#include "bindings/arguments.h"
#include "bindings/caches.h"
#include "bindings/device.h"
#include "bindings/head_rows.h"
#include "bindings/library.h"
#include "bindings/scales.h"
#include "bindings/tree_attention_fits.h"
#include "cpu/attention.h"
#include "kernels/element.h"

namespace sparrow::bindings {
namespace {

using MaybeTensor = std::optional<Tensor>;

const MaybeTensor kNoScale;

// The arguments of one call, but for where its results go.
struct Inputs {
  const Tensor &query, &key, &value, &ancestors, &prefix_lens;
  const MaybeTensor &prefix_starts, &anchor_slots, &anchor_count, &anchor_rank;
  std::optional<int64_t> window;
  const MaybeTensor& depth;
  double scale;
  std::optional<int64_t> num_splits;
  const MaybeTensor &block_table, &key_bias, &key_scale, &value_scale;

  // N. A cache without a page has no slots, whatever a table says.
  int64_t capacity() const {
    if (!block_table) return key.size(2);
    return key.size(0) == 0 ? 0 : block_table->size(1) * key.size(2);
  }
};

// Of its first two dims each may be 1.
void check_key_bias(const Arguments& arguments, const Tensor& bias, ScalarType dtype, Shape shape) {
  arguments.check_dtype("key_bias", bias, {dtype, ScalarType::Float});
  arguments.check_layout("key_bias", bias, {kAny, kAny, shape[2]});
  for (const int dim : {0, 1}) {
    if (bias.size(dim) != 1 && bias.size(dim) != shape[dim]) {
      arguments.refuse("key_bias", text(shape) + " or 1 in front", text(bias.sizes()));
    }
  }
}

// Rows that a dim of 1 repeats.
template <typename T>
HeadRows<const T> bias_rows(const Tensor& bias) {
  return {data<const T>(bias), bias.size(0) == 1 ? 0 : bias.stride(0),
          bias.size(1) == 1 ? 0 : bias.stride(1), 0};
}

template <typename Element>
KeyBias<Element> key_bias(const MaybeTensor& bias) {
  KeyBias<Element> found{};
  if (bias && bias->scalar_type() == ScalarType::Float) found.floats = bias_rows<float>(*bias);
  if (bias && bias->scalar_type() != ScalarType::Float) found.elements = bias_rows<Element>(*bias);
  return found;
}

BlockTable block_table(const Inputs& in) {
  if (!in.block_table || in.capacity() == 0) return {};
  return {rows<const int32_t>(*in.block_table), in.key.size(0), in.key.size(2)};
}

void check_inputs(const Arguments& arguments, const Inputs& in) {
  const ScalarType dtype = in.query.scalar_type();
  arguments.check_dtype("query", in.query,
                        {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
  arguments.check_layout("query", in.query, {kAny, kAny, kAny, kAny});
  const int64_t batch = in.query.size(0), rows = in.query.size(2), head_dim = in.query.size(3);
  arguments.check_dtype("key", in.key, {dtype, ScalarType::Float8_e4m3fn});
  arguments.check_layout("key", in.key, {in.block_table ? kAny : batch, kAny, kAny, head_dim});
  const int64_t kv_heads = in.key.size(1);
  arguments.check("value", in.value, in.key.scalar_type(), in.key.sizes());
  if (in.block_table) {
    arguments.check("block_table", *in.block_table, ScalarType::Int, {batch, kAny});
  }
  if (in.key_bias) check_key_bias(arguments, *in.key_bias, dtype, {batch, kv_heads, in.capacity()});
  if (kv_heads < 1 || in.query.size(1) % kv_heads != 0) {
    arguments.refuse("the number of heads of query", "a multiple of those of key",
                     std::to_string(in.query.size(1)));
  }
  arguments.check("ancestors", in.ancestors, ScalarType::Long, {batch, rows, kAny});
  arguments.check("prefix_lens", in.prefix_lens, ScalarType::Int, {batch});
  if (in.prefix_starts) {
    arguments.check("prefix_starts", *in.prefix_starts, ScalarType::Int, {batch});
  }
  const bool is_anchored = in.anchor_slots.has_value();
  if (in.anchor_count.has_value() != is_anchored || in.window.has_value() != is_anchored ||
      in.depth.has_value() != is_anchored) {
    arguments.refuse("anchors, window and depth", "given together or not at all", "some of them");
  }
  if (is_anchored) {
    arguments.check("anchor_slots", *in.anchor_slots, ScalarType::Int, {batch, kAny});
    arguments.check("anchor_count", *in.anchor_count, ScalarType::Int, {batch});
    arguments.check("depth", *in.depth, ScalarType::Int, {batch, rows});
    arguments.check_at_least("window", *in.window, 0);
  }
  if (in.num_splits) arguments.check_at_least("num_splits", *in.num_splits, 1);
}

Visibility visibility(const Inputs& in) {
  Visibility seen{.ancestors = data<const int64_t>(in.ancestors),
                  .words = in.ancestors.size(2),
                  .ancestors_batch_stride = in.ancestors.stride(0),
                  .ancestors_row_stride = in.ancestors.stride(1),
                  .prefix_lens = data<const int32_t>(in.prefix_lens),
                  .prefix_starts = nullptr,
                  .anchor_slots = {},
                  .max_anchors = 0,
                  .anchor_count = nullptr,
                  .depth = {},
                  .window = 0};
  if (in.prefix_starts) seen.prefix_starts = data<const int32_t>(*in.prefix_starts);
  if (in.anchor_slots) {
    seen.anchor_slots = rows<const int32_t>(*in.anchor_slots);
    seen.max_anchors = in.anchor_slots->size(1);
    seen.anchor_count = data<const int32_t>(*in.anchor_count);
    seen.depth = rows<const int32_t>(*in.depth);
    seen.window = *in.window;
  }
  return seen;
}

template <typename Element, typename Stored>
void attend_to(const Inputs& in, const Tensor& out, const HeadRows<float>& lse) {
  const auto scale_of = [&](const char* name, const MaybeTensor& scale) {
    return head_scales(Arguments("tree_attention", in.query), name, scale, in.query.size(0),
                       in.key);
  };
  run(in.query, SPARROW_CPU_DRIVER(tree_attention<Element, Stored>),
      TreeAttention<Element, Stored>{.batch = in.query.size(0),
                                     .heads = in.query.size(1),
                                     .kv_heads = in.key.size(1),
                                     .num_rows = in.query.size(2),
                                     .capacity = in.capacity(),
                                     .head_dim = in.query.size(3),
                                     .query = head_rows<const Element>(in.query),
                                     .key = head_rows<const Stored>(in.key),
                                     .value = head_rows<const Stored>(in.value),
                                     .key_scale = scale_of("key_scale", in.key_scale),
                                     .value_scale = scale_of("value_scale", in.value_scale),
                                     .block_table = block_table(in),
                                     .key_bias = key_bias<Element>(in.key_bias),
                                     .out = head_rows<Element>(out),
                                     .lse = lse,
                                     .visibility = visibility(in),
                                     .scale = static_cast<float>(in.scale),
                                     .num_splits = in.num_splits.value_or(0)});
}

template <typename Element>
void attend(const Inputs& in, const Tensor& out, const HeadRows<float>& lse) {
  if (is_float8(in.key)) return attend_to<Element, Float8>(in, out, lse);
  attend_to<Element, Element>(in, out, lse);
}

void attend(const Inputs& in, const Tensor& out, const HeadRows<float>& lse) {
  switch (in.query.scalar_type()) {
    case ScalarType::Half:
      return attend<Half>(in, out, lse);
    case ScalarType::BFloat16:
      return attend<BFloat16>(in, out, lse);
    default:
      return attend<float>(in, out, lse);
  }
}

std::tuple<Tensor, Tensor> tree_attention(
    const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& ancestors,
    const Tensor& prefix_lens, const MaybeTensor& prefix_starts, const MaybeTensor& anchor_slots,
    const MaybeTensor& anchor_count, const MaybeTensor& anchor_rank, std::optional<int64_t> window,
    const MaybeTensor& depth, double scale, std::optional<int64_t> num_splits,
    const MaybeTensor& block_table, const MaybeTensor& key_bias, const MaybeTensor& key_scale,
    const MaybeTensor& value_scale) {
  const Inputs in{query,        key,          value,       ancestors, prefix_lens, prefix_starts,
                  anchor_slots, anchor_count, anchor_rank, window,    depth,       scale,
                  num_splits,   block_table,  key_bias,    key_scale, value_scale};
  check_inputs(Arguments("tree_attention", query), in);
  const int64_t batch = query.size(0), heads = query.size(1), rows = query.size(2);
  const Tensor out = empty(query, query.scalar_type(), {batch, heads, rows, query.size(3)});
  const Tensor lse = empty(query, ScalarType::Float, {batch, heads, rows});
  attend(in, out, head_rows<float>(lse));
  return {out, lse};
}

// Into `out` and, if there is one, `lse`.
void attend_into(const Arguments& arguments, const Inputs& in, const Tensor& out,
                 const MaybeTensor& lse) {
  const Tensor& query = in.query;
  const int64_t batch = query.size(0), heads = query.size(1), rows = query.size(2);
  arguments.check("out", out, query.scalar_type(), {batch, heads, rows, query.size(3)});
  HeadRows<float> lse_rows{};
  if (lse) {
    check_lse(arguments, "lse", *lse, {batch, heads, rows});
    lse_rows = head_rows<float>(*lse);
  }
  attend(in, out, lse_rows);
}

void tree_attention_out(const Tensor& query, const Tensor& key, const Tensor& value,
                        const Tensor& ancestors, const Tensor& prefix_lens,
                        const MaybeTensor& prefix_starts, const MaybeTensor& anchor_slots,
                        const MaybeTensor& anchor_count, const MaybeTensor& anchor_rank,
                        std::optional<int64_t> window, const MaybeTensor& depth, double scale,
                        std::optional<int64_t> num_splits, const Tensor& out,
                        const MaybeTensor& lse, const MaybeTensor& block_table,
                        const MaybeTensor& key_bias, const MaybeTensor& key_scale,
                        const MaybeTensor& value_scale) {
  const Inputs in{query,        key,          value,       ancestors, prefix_lens, prefix_starts,
                  anchor_slots, anchor_count, anchor_rank, window,    depth,       scale,
                  num_splits,   block_table,  key_bias,    key_scale, value_scale};
  const Arguments arguments("tree_attention", query);
  check_inputs(arguments, in);
  attend_into(arguments, in, out, lse);
}

// All that stands before a call that comes straight from the public function: what Python would
// refuse, by shape or, if `checked`, by value, is refused. Python then looks for the words.
void check_at_once(const Arguments& arguments, const Inputs& in, bool checked) {
  check_inputs(arguments, in);
  arguments.check_at_least("W of ancestors", in.ancestors.size(2), 1);
  arguments.check_at_least("numel of query", in.query.numel(), 1);
  const int64_t batch = in.query.size(0), capacity = in.capacity();
  if (in.anchor_slots.has_value() != in.anchor_rank.has_value()) {
    arguments.refuse("anchors", "whole", "some of them");
  }
  if (in.anchor_rank) {
    arguments.check("anchor_rank", *in.anchor_rank, ScalarType::Int, {batch, capacity + 1});
  }
  if (!checked) return;
  const Visibility seen = visibility(in);
  const Pages pages = pages_of(arguments, in.block_table, batch, in.key.size(0), in.key.size(2));
  const auto rank =
      in.anchor_rank ? rows<const int32_t>(*in.anchor_rank) : Rows<const int32_t>{nullptr, 0};
  if (!tree_attention_fits({batch, in.query.size(2), seen, rank, pages})) {
    throw std::invalid_argument("a value is refused");
  }
}

// What may write to an input, or twice to one place, is looked at by Python.
void check_apart(const Inputs& in, const Tensor& out, const MaybeTensor& lse) {
  const auto may_be_in = [&](const Tensor& written) {
    const auto meets = [&](const Tensor* read) { return may_overlap(written, *read); };
    const auto has = [&](const MaybeTensor* read) { return *read && meets(&**read); };
    return std::ranges::any_of(
               std::array{&in.query, &in.key, &in.value, &in.ancestors, &in.prefix_lens}, meets) ||
           std::ranges::any_of(
               std::array{&in.prefix_starts, &in.anchor_slots, &in.anchor_count, &in.anchor_rank,
                          &in.depth, &in.block_table, &in.key_bias},
               has);
  };
  const bool apart = strides_nest(out) && !may_be_in(out) &&
                     (!lse || (strides_nest(*lse) && !may_be_in(*lse) && !may_overlap(out, *lse)));
  if (!apart) throw std::invalid_argument("memory is shared");
}

Tensor tree_attention_at_once(const Tensor& query, const Tensor& key, const Tensor& value,
                              const Tensor& ancestors, const Tensor& prefix_lens,
                              const MaybeTensor& prefix_starts, const MaybeTensor& anchor_slots,
                              const MaybeTensor& anchor_count, const MaybeTensor& anchor_rank,
                              std::optional<int64_t> window, const MaybeTensor& depth, double scale,
                              std::optional<int64_t> num_splits, const MaybeTensor& block_table,
                              const MaybeTensor& key_bias, bool checked) {
  const Inputs in{query,        key,          value,       ancestors, prefix_lens, prefix_starts,
                  anchor_slots, anchor_count, anchor_rank, window,    depth,       scale,
                  num_splits,   block_table,  key_bias,    kNoScale,  kNoScale};
  check_at_once(Arguments("tree_attention", query), in, checked);
  const Tensor out = empty(query, query.scalar_type(), query.sizes());
  attend(in, out, {});
  return out;
}

void tree_attention_out_at_once(const Tensor& query, const Tensor& key, const Tensor& value,
                                const Tensor& ancestors, const Tensor& prefix_lens,
                                const MaybeTensor& prefix_starts, const MaybeTensor& anchor_slots,
                                const MaybeTensor& anchor_count, const MaybeTensor& anchor_rank,
                                std::optional<int64_t> window, const MaybeTensor& depth,
                                double scale, std::optional<int64_t> num_splits, const Tensor& out,
                                const MaybeTensor& lse, const MaybeTensor& block_table,
                                const MaybeTensor& key_bias, bool checked) {
  const Inputs in{query,        key,          value,       ancestors, prefix_lens, prefix_starts,
                  anchor_slots, anchor_count, anchor_rank, window,    depth,       scale,
                  num_splits,   block_table,  key_bias,    kNoScale,  kNoScale};
  const Arguments arguments("tree_attention", query);
  check_at_once(arguments, in, checked);
  if (checked) check_apart(in, out, lse);
  attend_into(arguments, in, out, lse);
}

}  // namespace

SPARROW_IMPLEMENT_ON_CPU(library) {
  library.impl("tree_attention", TORCH_BOX(&tree_attention));
  library.impl("tree_attention_out", TORCH_BOX(&tree_attention_out));
  library.impl("tree_attention_at_once", TORCH_BOX(&tree_attention_at_once));
  library.impl("tree_attention_out_at_once", TORCH_BOX(&tree_attention_out_at_once));
}

}  // namespace sparrow::bindings
