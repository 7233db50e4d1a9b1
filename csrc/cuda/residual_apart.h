// A residual walk whose nodes are tried apart, each by a cluster of its own; the last joins them.
//
// Which child a node hands the walk to depends on that node's rows and coins alone. So where there
// are clusters enough, every node with children is tried at once, and what the walk takes is its
// longest node, not their sum. A cluster goes on into the child it accepts only where that has no
// cluster of its own: a leaf, from whose row the bonus is drawn. Every cluster leaves one Step; the
// last to do so follows them from the root.
#pragma once

#include "cuda/row.h"
#include "kernels/accept/residual.h"

namespace sparrow::cuda {

// What became of the walk at a node, if it came there.
struct alignas(16) Step {
  int64_t bonus;
  int32_t child;  // the one accepted, -1 for none
  int32_t ends;   // with the bonus, drawn at that child if there is one
};

// Of a launch: the clusters that every request has.
struct Apart {
  int clusters;        // 1: one walks all nodes
  Step* steps;         // [B, T]
  uint32_t* counters;  // [B], zero between launches
};

// Where one cluster begins, and of how many. A node of -1: others do all there is.
struct Begin {
  int64_t node, length;  // of the path to it
  int clusters;
};

// By every warp, alike. The root first; at the root alone if the tree has more nodes with children
// than there are clusters, or depths that are not how far its links lead.
__device__ inline Begin begin_of(const TreeLinks& tree, int clusters, int rank) {
  const Begin alone{rank == 0 ? 0 : -1, 0, 1};
  if (clusters == 1 || tree.depth[0] != 0) return alone;
  const uint32_t before = (1u << lane()) - 1;
  int64_t own = -1;
  int count = 0;
  for (int64_t base = 0; base < tree.num_slots; base += kWarp) {
    const int64_t node = base + lane();
    bool is_inner = false, is_sound = true;
    if (node < tree.num_slots) {
      const int64_t child = tree.child(node), next = tree.sibling(node);
      is_inner = child >= 0;
      is_sound = (child < 0 || tree.depth[child] == int64_t{tree.depth[node]} + 1) &&
                 (next < 0 || tree.depth[next] == tree.depth[node]);
    }
    const uint32_t inner = __ballot_sync(kWholeWarp, is_inner);
    const bool is_own = is_inner && count + __popc(inner & before) == rank;
    const uint32_t owner = __ballot_sync(kWholeWarp, is_own);
    if (owner != 0) own = base + __ffs(static_cast<int>(owner)) - 1;
    count += __popc(inner);
    if (count > clusters || !__all_sync(kWholeWarp, is_sound)) return alone;
  }
  if (count < 2 || tree.child(0) < 0) return alone;
  return {own, own < 0 ? 0 : tree.depth[own], count};
}

// Where a cluster's walk leaves what it finds: in the results if it walks alone, else in a step.
class ClusterPath {
 public:
  __device__ ClusterPath(const ResidualInputs& in, const WalkedPath& whole, const Apart& apart,
                         int64_t b, const Begin& begin)
      : in_(in), whole_(whole), apart_(apart), b_(b), begin_(begin) {}

  __device__ void enter(int64_t length, int64_t node) const {
    if (is_alone()) whole_.enter(length, node);
  }

  __device__ bool accept(int64_t length, int64_t child) {
    if (is_alone()) return whole_.accept(length, child);
    child_ = static_cast<int32_t>(child);
    if (in_.tree.child(child) < 0) return true;
    if (whole_.writes) hand_in({kNoToken, child_, false});
    return false;
  }

  __device__ void end(int64_t length, int64_t bonus) const {
    is_alone() ? whole_.end(length, bonus) : hand_in({bonus, child_, true});
  }

 private:
  __device__ bool is_alone() const { return begin_.clusters == 1; }

  // By one thread of the cluster, the one that knows.
  __device__ void hand_in(const Step& step) const {
    Step* steps = apart_.steps + b_ * in_.tree.num_slots;
    steps[begin_.node] = step;
    __threadfence();
    const uint32_t last = begin_.clusters - 1;
    if (atomicInc(&apart_.counters[b_], last) != last) return;
    __threadfence();
    join(steps);
  }

  __device__ void join(const Step* steps) const {
    WalkedPath path = whole_;
    path.writes = true;
    int64_t node = 0, length = 0;
    while (true) {
      path.enter(length, node);
      const Step step = steps[node];
      if (step.child >= 0) {
        path.accept(length++, step.child);
        node = step.child;
      }
      if (!step.ends) continue;
      if (step.child >= 0) path.enter(length, node);
      return path.end(length, step.bonus);
    }
  }

  const ResidualInputs& in_;
  const WalkedPath& whole_;
  const Apart& apart_;
  int64_t b_;
  Begin begin_;
  int32_t child_ = -1;
};

}  // namespace sparrow::cuda
