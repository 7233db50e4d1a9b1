// The EAGLE-2 rerank of a pool of grown nodes (Li et al., arXiv:2406.16858).
//
//   rank(node) = min(score(node), rank(parent(node)))
//
// so that no child outranks its parent; with ties to the lower pool index, the best nodes are then
// a tree by themselves. A parent that is not an earlier pool node counts as the root; a NaN score
// ranks last, so that the order is total whatever comes in.
#pragma once

#include "kernels/common.h"

namespace sparrow {

inline constexpr float kLowestRank = -__builtin_huge_valf();

// The pool node above `node`, -1 for the root.
SPARROW_HD inline int64_t pool_parent(const int32_t* parent, int64_t node) {
  return parent[node] >= 0 && parent[node] < node ? parent[node] : -1;
}

// The rank of `node`, whose parent's rank is already in `ranks`.
SPARROW_HD inline float pool_rank(const float* scores, const int32_t* parent, const float* ranks,
                                  int64_t node) {
  const float score = scores[node] == scores[node] ? scores[node] : kLowestRank;
  const int64_t above = pool_parent(parent, node);
  return above >= 0 && ranks[above] < score ? ranks[above] : score;
}

SPARROW_HD inline bool outranks(float rank, int64_t node, float other_rank, int64_t other) {
  return rank > other_rank || (rank == other_rank && node < other);
}

}  // namespace sparrow
