// The tree ops.
#include "cpu/tree.h"

#include <optional>
#include <tuple>

#include "bindings/arguments.h"
#include "bindings/device.h"
#include "bindings/library.h"
#include "cuda/tree.h"

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
  run(parent, SPARROW_DRIVERS(build_tree),
      BuildTree{.batch = batch,
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
  run(scores, SPARROW_DRIVERS(select_tree),
      SelectTree{.batch = batch,
                 .pool = pool,
                 .num_nodes = num_nodes,
                 .scores = rows<const float>(scores),
                 .parent = rows<const int32_t>(parent),
                 .selected = data<int32_t>(selected),
                 .tree_parent = data<int32_t>(tree_parent)});
  return {selected, tree_parent};
}

}  // namespace

SPARROW_IMPLEMENT(tree, library) {
  library.impl("build_tree", TORCH_BOX(&build_tree));
  library.impl("select_tree", TORCH_BOX(&select_tree));
}

}  // namespace sparrow::bindings
