// The accepted path of one tree, found by a whole block in shared memory.
//
//   matched[n] = the lowest child c of n with tokens[c] == target_tokens[n]
//   path       = 0, matched[0], matched[matched[0]], ...          (at most max_path nodes)
//
// Every node is tried at once, against its parent: one match a node and one atomicMin, whatever the
// number of siblings. What remains serial is the path itself: one read of shared memory a node,
// made by every thread alike, so that nobody waits for anybody and no path is stored.
//
// accept_walk follows the child links and never reads `parent`. Both say the same of any layout of
// build_tree; of one whose links and parents disagree, which every node checks for itself, the
// links are swept instead. So the path is accept_walk's, bit for bit, whatever the layout holds.
//
// Tried and left: bits of matched nodes against each node's ancestors. It needs T * W words of
// global memory where this needs T parents, and a rule for words that lie.
#pragma once

#include "cuda/block.h"
#include "kernels/accept/call.h"

namespace sparrow::cuda {

inline constexpr int32_t kNoNode = 0x7fffffff;  // above every node: atomicMin finds the lowest

// A request's path as every thread of the block sees it. `matched` is shared memory.
struct TreePath {
  const int32_t* matched;
  const int64_t* target_tokens;  // shared memory as well
  int64_t num_nodes;             // on the path; 0 for an idle request

  // Walks along the path: `node` for k = 0, 1, ... while k < num_nodes.
  struct Cursor {
    const int32_t* matched;
    int32_t node;
    __device__ int32_t next() {
      const int32_t here = node;
      node = matched[here];
      return here;
    }
  };
  __device__ Cursor begin() const { return {matched, 0}; }

  __device__ int32_t at(int64_t k) const {
    Cursor cursor = begin();
    int32_t node = cursor.next();
    for (; k > 0; --k) node = cursor.next();
    return node;
  }
};

// Dynamic shared memory of find_path.
inline size_t path_bytes(int64_t num_slots) {
  return static_cast<size_t>(num_slots) * (sizeof(int64_t) + 3 * sizeof(int32_t));
}

// Every thread of the block calls it, with the same arguments; it ends in a barrier.
__device__ inline TreePath find_path(const AcceptTree& call, int64_t b, char* memory) {
  const int slots = static_cast<int>(call.tree.num_slots);
  const TreeLinks links = call.tree.links(b);
  const int32_t* parent_row = call.tree.parent[b];
  const int64_t* token_row = call.tokens[b];
  const int64_t* target_row = call.target_tokens[b];
  int64_t* target = reinterpret_cast<int64_t*>(memory);
  int32_t* parent = reinterpret_cast<int32_t*>(target + slots);
  int32_t* matched = parent + slots;
  int32_t* is_linked = matched + slots;
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);

  const bool is_idle = slots == 0 || links.depth[0] < 0;
  for (int node = first; node < slots; node += step) {
    target[node] = target_row[node];
    parent[node] = parent_row[node];
    matched[node] = kNoNode;
    is_linked[node] = 0;
  }
  // Read before the barrier, used behind it: one trip to memory for all five.
  int32_t child = -1, sibling = -1;
  int64_t token = 0;
  if (first < slots) {
    child = links.first_child[first];
    sibling = links.next_sibling[first];
    token = token_row[first];
  }
  __syncthreads();

  bool agrees = true;
  for (int node = first; node < slots; node += step) {
    if (node != first) {
      child = links.first_child[node];
      sibling = links.next_sibling[node];
      token = token_row[node];
    }
    const int32_t above = parent[node];
    if (links.holds(child)) {
      agrees = agrees && parent[child] == node;
      atomicOr(&is_linked[child], 1);  // of a wild layout several nodes may link to one
    }
    if (links.holds(sibling) && sibling > node) {
      agrees = agrees && parent[sibling] == above;
      atomicOr(&is_linked[sibling], 1);
    }
    if (links.holds(above) && token == target[above]) atomicMin(&matched[above], node);
  }
  __syncthreads();
  // A list of node n now holds only nodes whose parent is n; with every such node linked to by its
  // list's start or by an earlier sibling, it holds all of them.
  for (int node = first; node < slots; node += step) {
    agrees = agrees && (!links.holds(parent[node]) || is_linked[node] != 0);
  }
  if (!__syncthreads_and(agrees)) {
    for (int node = first; node < slots; node += step) {
      const int64_t found = child_with_token(links, token_row, node, target[node]);
      matched[node] = found < 0 ? kNoNode : static_cast<int32_t>(found);
    }
    __syncthreads();
  }

  TreePath path{matched, target, is_idle ? 0 : 1};
  if (!is_idle) {
    for (int32_t node = matched[0]; node != kNoNode && path.num_nodes < call.out.max_path;
         node = matched[node]) {
      ++path.num_nodes;
    }
  }
  return path;
}

// Writes request b's acceptance, by `step` threads of which this one is `thread`.
__device__ inline void write_acceptance(const TreePath& path, const AcceptanceBatch& out, int64_t b,
                                        int thread, int step) {
  const AcceptanceRows rows = out.rows(b);
  if (thread == 0) out.accept_length[b] = static_cast<int32_t>(path.num_nodes) - 1;
  int64_t own = thread;  // the next entry that this thread writes
  TreePath::Cursor cursor = path.begin();
  for (int64_t k = 0; k < path.num_nodes; ++k) {
    const int32_t node = cursor.next();
    if (k != own) continue;
    rows.path[k] = node;
    rows.tokens[k] = path.target_tokens[node];
    own += step;
  }
  for (; own < rows.max_path; own += step) {
    rows.path[own] = -1;
    rows.tokens[own] = -1;
  }
}

}  // namespace sparrow::cuda
