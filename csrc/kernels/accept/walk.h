// Walks one tree from its root along the target's own tokens.
//
//   node -> the lowest-numbered child whose token equals target_tokens[node]; where none does, that
//   target token is the bonus. Cost: the children of the nodes on the path, nothing else.
//
// Relies on nothing about the layout: a child outside the tree ends the walk, and siblings must
// ascend, so that no list can turn into a ring.
#pragma once

#include "kernels/common.h"

namespace sparrow {

// One request's tree as the walk reads it; every array is [T].
struct TreeLinks {
  const int32_t* depth;
  const int32_t* first_child;
  const int32_t* next_sibling;
  int64_t num_slots;

  SPARROW_HD bool is_idle() const { return num_slots == 0 || depth[0] < 0; }

  SPARROW_HD bool holds(int64_t node) const { return node >= 0 && node < num_slots; }

  // The first child of a node, -1 for none.
  SPARROW_HD int64_t child(int64_t node) const {
    const int64_t first = first_child[node];
    return holds(first) ? first : -1;
  }

  // The sibling after `node`, -1 for none.
  SPARROW_HD int64_t sibling(int64_t node) const {
    const int64_t next = next_sibling[node];
    return holds(next) && next > node ? next : -1;
  }
};

// One request's rows of an acceptance; both are [S].
struct AcceptanceRows {
  int32_t* path;
  int64_t* tokens;
  int64_t max_path;

  SPARROW_HD void pad_from(int64_t length) const {
    for (int64_t k = length; k < max_path; ++k) {
      path[k] = -1;
      tokens[k] = -1;
    }
  }
};

SPARROW_HD inline int64_t child_with_token(const TreeLinks& tree, const int64_t* tokens,
                                           int64_t node, int64_t token) {
  int64_t child = tree.child(node);
  while (child >= 0 && tokens[child] != token) child = tree.sibling(child);
  return child;
}

// Fills one request's path and emitted tokens, max_path >= 1, and returns its accept_length.
SPARROW_HD inline int32_t accept_walk(const TreeLinks& tree, const int64_t* tokens,
                                      const int64_t* target_tokens, const AcceptanceRows& out) {
  if (tree.is_idle()) {
    out.pad_from(0);
    return -1;
  }
  int64_t node = 0;
  int64_t length = 0;
  while (true) {
    out.path[length] = static_cast<int32_t>(node);
    out.tokens[length] = target_tokens[node];
    if (length + 1 == out.max_path) break;
    const int64_t child = child_with_token(tree, tokens, node, target_tokens[node]);
    if (child < 0) break;
    node = child;
    ++length;
  }
  out.pad_from(length + 1);
  return static_cast<int32_t>(length);
}

}  // namespace sparrow
