// Lays out one draft tree: depths, ancestor bits, first children and next siblings.
//
//   depth[i]     = depth[parent[i]] + 1
//   ancestors[i] = ancestors[parent[i]] | bit i          (parents come before their children)
//
// O(T * W) for T nodes and W words of 64 bits; no row is searched for. A malformed tree counts as
// its root alone. Relies on nothing about the values in `parent` or `num_nodes`.
#pragma once

#include "kernels/common.h"

namespace sparrow {

// One request's rows of the outputs; words is [T, W], the others [T].
struct TreeRows {
  int32_t* parent;
  int32_t* depth;
  int64_t* ancestors;
  int32_t* first_child;
  int32_t* next_sibling;
};

SPARROW_HD inline bool may_be_parent(int32_t parent, int64_t node) {
  return node == 0 ? parent == -1 : parent >= 0 && parent < node;
}

// 0 for a well-formed tree, else its first bad node + 1.
SPARROW_HD inline int32_t tree_status(const int32_t* parent, int64_t num_nodes) {
  for (int64_t node = 0; node < num_nodes; ++node) {
    if (!may_be_parent(parent[node], node)) return static_cast<int32_t>(node) + 1;
  }
  return 0;
}

SPARROW_HD inline void write_padding(const TreeRows& tree, int64_t node, int64_t num_words) {
  tree.parent[node] = -1;
  tree.depth[node] = -1;
  tree.first_child[node] = -1;
  tree.next_sibling[node] = -1;
  for (int64_t w = 0; w < num_words; ++w) tree.ancestors[node * num_words + w] = 0;
}

// Writes all `num_slots` nodes of one tree and returns its status. num_nodes is clamped.
SPARROW_HD inline int32_t layout_tree(const int32_t* parent, int64_t num_nodes, int64_t num_slots,
                                      int64_t num_words, const TreeRows& tree) {
  num_nodes = clamp(num_nodes, 0, num_slots);
  const int32_t status = tree_status(parent, num_nodes);
  if (status != 0) num_nodes = 1;

  for (int64_t node = 0; node < num_nodes; ++node) {
    const int64_t above = node == 0 ? -1 : parent[node];
    int64_t* words = tree.ancestors + node * num_words;
    for (int64_t w = 0; w < num_words; ++w) {
      words[w] = above < 0 ? 0 : tree.ancestors[above * num_words + w];
    }
    words[node / 64] |= static_cast<int64_t>(uint64_t{1} << (node % 64));
    tree.parent[node] = static_cast<int32_t>(above);
    tree.depth[node] = above < 0 ? 0 : tree.depth[above] + 1;
    tree.first_child[node] = -1;
    tree.next_sibling[node] = -1;
  }
  // From the last node down, so that each list of siblings comes out in ascending order.
  for (int64_t node = num_nodes - 1; node > 0; --node) {
    const int32_t above = parent[node];
    tree.next_sibling[node] = tree.first_child[above];
    tree.first_child[above] = static_cast<int32_t>(node);
  }
  for (int64_t node = num_nodes; node < num_slots; ++node) write_padding(tree, node, num_words);
  return status;
}

}  // namespace sparrow
