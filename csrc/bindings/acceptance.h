// Reads a tree layout and allocates an acceptance: what every acceptance op needs.
#pragma once

#include <tuple>

#include "bindings/arguments.h"
#include "cpu/accept.h"

namespace sparrow::bindings {

// Only the links are read; parent and ancestors are in the schemas because a layout comes whole.
inline cpu::TreeBatch tree_batch(const Arguments& arguments, int64_t batch, int64_t slots,
                                 const Tensor& depth, const Tensor& first_child,
                                 const Tensor& next_sibling) {
  arguments.check("depth", depth, ScalarType::Int, {batch, slots});
  arguments.check("first_child", first_child, ScalarType::Int, {batch, slots});
  arguments.check("next_sibling", next_sibling, ScalarType::Int, {batch, slots});
  return {rows<const int32_t>(depth), rows<const int32_t>(first_child),
          rows<const int32_t>(next_sibling), slots};
}

struct AcceptanceTensors {
  Tensor path, accept_length, emitted;

  AcceptanceTensors(const Tensor& like, int64_t batch, int64_t max_path)
      : path(empty(like, ScalarType::Int, {batch, max_path})),
        accept_length(empty(like, ScalarType::Int, {batch})),
        emitted(empty(like, ScalarType::Long, {batch, max_path})) {}

  cpu::AcceptanceBatch pointers() const {
    return {data<int32_t>(path), data<int32_t>(accept_length), data<int64_t>(emitted),
            path.size(1)};
  }
};

// Checks the arguments of accept_tree and runs it.
AcceptanceTensors run_accept_tree(const Arguments& arguments, const Tensor& tokens,
                                  const Tensor& depth, const Tensor& first_child,
                                  const Tensor& next_sibling, const Tensor& target_tokens,
                                  int64_t max_path);

}  // namespace sparrow::bindings
