// The tree ops on CPU tensors.
#include "cpu/tree.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "bindings/arguments.h"
#include "cpu/topk.h"
#include "kernels/element.h"

namespace sparrow::bindings {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> build_tree(
    const Tensor& parent, const std::optional<Tensor>& num_nodes) {
  const Arguments arguments("build_tree", parent);
  arguments.check("parent", parent, ScalarType::Int, {kAny, kAny});
  const int64_t batch = parent.size(0), slots = parent.size(1), words = (slots + 63) / 64;
  if (num_nodes) arguments.check("num_nodes", *num_nodes, ScalarType::Int, {batch});

  const Tensor parent_out = empty(parent, ScalarType::Int, {batch, slots});
  const Tensor depth = empty(parent, ScalarType::Int, {batch, slots});
  const Tensor ancestors = empty(parent, ScalarType::Long, {batch, slots, words});
  const Tensor first_child = empty(parent, ScalarType::Int, {batch, slots});
  const Tensor next_sibling = empty(parent, ScalarType::Int, {batch, slots});
  const Tensor status = empty(parent, ScalarType::Int, {batch});
  cpu::build_tree({.batch = batch,
                   .num_slots = slots,
                   .num_words = words,
                   .parent = rows<const int32_t>(parent),
                   .num_nodes = num_nodes ? data<const int32_t>(*num_nodes) : nullptr,
                   .parent_out = data<int32_t>(parent_out),
                   .depth = data<int32_t>(depth),
                   .ancestors = data<int64_t>(ancestors),
                   .first_child = data<int32_t>(first_child),
                   .next_sibling = data<int32_t>(next_sibling),
                   .status = data<int32_t>(status)});
  return {parent_out, depth, ancestors, first_child, next_sibling, status};
}

std::tuple<Tensor, Tensor> select_tree(const Tensor& scores, const Tensor& parent,
                                       int64_t num_nodes) {
  const Arguments arguments("select_tree", scores);
  arguments.check("scores", scores, ScalarType::Float, {kAny, kAny});
  const int64_t batch = scores.size(0), pool = scores.size(1);
  arguments.check("parent", parent, ScalarType::Int, {batch, pool});
  arguments.check_in("num_nodes", num_nodes, 1, pool + 1);
  const Tensor selected = empty(scores, ScalarType::Int, {batch, num_nodes - 1});
  const Tensor tree_parent = empty(scores, ScalarType::Int, {batch, num_nodes});
  cpu::select_tree({.batch = batch,
                    .pool = pool,
                    .num_nodes = num_nodes,
                    .scores = rows<const float>(scores),
                    .parent = rows<const int32_t>(parent),
                    .selected = data<int32_t>(selected),
                    .tree_parent = data<int32_t>(tree_parent)});
  return {selected, tree_parent};
}

template <typename Element>
void run_topk(const Tensor& logits, const Tensor& values, const Tensor& ids) {
  cpu::topk_logprobs<Element>({.num_rows = logits.size(0),
                               .vocab = logits.size(1),
                               .k = values.size(1),
                               .logits = rows<const Element>(logits),
                               .values = data<float>(values),
                               .ids = data<int64_t>(ids)});
}

std::tuple<Tensor, Tensor> topk_logprobs(const Tensor& logits, int64_t k) {
  const Arguments arguments("topk_logprobs", logits);
  arguments.check_dtype("logits", logits,
                        {ScalarType::Float, ScalarType::Half, ScalarType::BFloat16});
  arguments.check_layout("logits", logits, {kAny, kAny});
  const int64_t num_rows = logits.size(0), vocab = logits.size(1);
  arguments.check_in("k", k, 0, vocab);
  const Tensor values = empty(logits, ScalarType::Float, {num_rows, k});
  const Tensor ids = empty(logits, ScalarType::Long, {num_rows, k});
  switch (logits.scalar_type()) {
    case ScalarType::Half:
      run_topk<Half>(logits, values, ids);
      break;
    case ScalarType::BFloat16:
      run_topk<BFloat16>(logits, values, ids);
      break;
    default:
      run_topk<float>(logits, values, ids);
  }
  return {values, ids};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparrow_native, CPU, library) {
  library.impl("build_tree", TORCH_BOX(&build_tree));
  library.impl("select_tree", TORCH_BOX(&select_tree));
  library.impl("topk_logprobs", TORCH_BOX(&topk_logprobs));
}

}  // namespace sparrow::bindings
