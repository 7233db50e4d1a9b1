// Accepts one tree a block.
//
//   node -> the lowest-numbered child whose token equals target_tokens[node] (cuda/accept_path.h)
//
// Grid: (B). A thread a node, up to 512 threads: all of a node's values are in flight at once.
// Shared memory: 20 bytes a node. Bytes: 28 T + 12 S a tree; bound by latency: one trip to memory,
// two barriers, one shared read a node of the path.
// Relies on nothing about the layout. Does not handle trees that shared memory cannot hold in
// parallel: beyond some 4,900 nodes one thread walks.
#include "cuda/accept.h"
#include "cuda/accept_path.h"
#include "cuda/block.h"
#include "cuda/launch.h"

namespace sparrow::cuda {
namespace {

constexpr int kMostThreads = 512;

__global__ void __launch_bounds__(kMostThreads) accept_tree_kernel(const AcceptTree call) {
  const int64_t b = blockIdx.x;
  const TreePath path = find_path(call, b, dynamic_shared());
  write_acceptance(path, call.out, b, static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x));
}

__global__ void walk_kernel(const AcceptTree call) {
  const int64_t b = blockIdx.x;
  call.out.accept_length[b] =
      accept_walk(call.tree.links(b), call.tokens[b], call.target_tokens[b], call.out.rows(b));
}

}  // namespace

void accept_tree(const AcceptTree& call, Stream stream) {
  const int64_t slots = call.tree.num_slots;
  if (!fits_in_shared(path_bytes(slots))) {
    launch("accept_tree", walk_kernel, {.blocks = call.batch, .threads = 1}, stream, call);
    return;
  }
  launch("accept_tree", accept_tree_kernel,
         {.blocks = call.batch,
          .threads = whole_warps(slots, kMostThreads),
          .shared_bytes = path_bytes(slots)},
         stream, call);
}

}  // namespace sparrow::cuda
