// Reads a tree layout and allocates an acceptance: what every acceptance op needs.
#pragma once

#include <tuple>

#include "bindings/arguments.h"
#include "kernels/accept/call.h"

namespace sparrow::bindings {

// `ancestors` is in the schemas because a layout comes whole; no walk reads it.
inline TreeBatch tree_batch(const Arguments& arguments, int64_t batch, int64_t slots,
                            const Tensor& parent, const Tensor& depth, const Tensor& first_child,
                            const Tensor& next_sibling) {
  arguments.check("parent", parent, ScalarType::Int, {batch, slots});
  arguments.check("depth", depth, ScalarType::Int, {batch, slots});
  arguments.check("first_child", first_child, ScalarType::Int, {batch, slots});
  arguments.check("next_sibling", next_sibling, ScalarType::Int, {batch, slots});
  return {rows<const int32_t>(parent), rows<const int32_t>(depth), rows<const int32_t>(first_child),
          rows<const int32_t>(next_sibling), slots};
}

struct AcceptanceTensors {
  Tensor path, accept_length, emitted;

  AcceptanceTensors(const Tensor& like, int64_t batch, int64_t max_path)
      : path(empty(like, ScalarType::Int, {batch, max_path})),
        accept_length(empty(like, ScalarType::Int, {batch})),
        emitted(empty(like, ScalarType::Long, {batch, max_path})) {}

  AcceptanceBatch pointers() const {
    return {data<int32_t>(path), data<int32_t>(accept_length), data<int64_t>(emitted),
            path.size(1)};
  }
};

// Checked, and yet without a place for what is accepted.
inline AcceptTree read_accept_tree(const Arguments& arguments, const Tensor& tokens,
                                   const Tensor& parent, const Tensor& depth,
                                   const Tensor& first_child, const Tensor& next_sibling,
                                   const Tensor& target_tokens, int64_t max_path) {
  arguments.check("tokens", tokens, ScalarType::Long, {kAny, kAny});
  const int64_t batch = tokens.size(0), slots = tokens.size(1);
  const TreeBatch tree =
      tree_batch(arguments, batch, slots, parent, depth, first_child, next_sibling);
  arguments.check("target_tokens", target_tokens, ScalarType::Long, {batch, slots});
  arguments.check_at_least("max_path", max_path, 1);
  return AcceptTree{.batch = batch,
                    .tree = tree,
                    .tokens = rows<const int64_t>(tokens),
                    .target_tokens = rows<const int64_t>(target_tokens),
                    .out = {}};
}

}  // namespace sparrow::bindings
