// Lays out one tree a block.
//
//   depth[i]     = depth[parent[i]] + 1
//   ancestors[i] = ancestors[parent[i]] | bit i
//
// Ancestors: every node climbs to its root by itself. First inside its own word of 64 nodes, which
// gives `inner`, its ancestors there, and `exit`, the first ancestor in a lower word; then from
// word to word. So a row costs at most 64 + W reads of shared memory however deep the tree is (its
// depth, where that is less), and no row waits for another.
// Siblings: one warp goes from the last 32 nodes to the first, as layout_tree does from the last
// node down: __match_any_sync finds siblings among the 32, `first_child` holds the nearest behind.
// Tried and left: level by level (a barrier a level: a chain has T of them), pointer doubling on
// whole rows (8 T W bytes of shared memory: 128 KiB for 1,024 nodes).
//
// Grid: (B). Warp 0 links siblings while the others climb, a thread a node; then all write.
// Shared memory: 20 bytes a node. Bytes: 4 T read and (16 + 8 W) T written a tree; bound by
// latency. Relies on nothing about the values in `parent` or `num_nodes`. Trees that shared memory
// cannot hold (beyond some 4,900 nodes) are laid out by one thread.
#include "cuda/block.h"
#include "cuda/launch.h"
#include "cuda/tree.h"
#include "kernels/tree/layout.h"

namespace sparrow::cuda {
namespace {

constexpr int kMostThreads = 1024;
constexpr int kWordBits = 64;

__device__ TreeRows rows_of(const BuildTree& call, int64_t b) {
  const int64_t row = b * call.num_slots;
  return {call.parent_out + row, call.depth + row, call.ancestors + row * call.num_words,
          call.first_child + row, call.next_sibling + row};
}

// One tree's nodes in shared memory; all [T].
struct Nodes {
  uint64_t* inner;  // ancestors in the node's own word, itself included
  int32_t* exit;    // the nearest ancestor in a lower word, -1 for none
  int32_t* parent;
  int32_t* first_child;

  __device__ Nodes(char* memory, int slots)
      : inner(reinterpret_cast<uint64_t*>(memory)),
        exit(reinterpret_cast<int32_t*>(inner + slots)),
        parent(exit + slots),
        first_child(parent + slots) {}
};

size_t node_bytes(int64_t slots) {
  return static_cast<size_t>(slots) * (sizeof(uint64_t) + 3 * sizeof(int32_t));
}

// The whole block: the first bad node + 1, 0 if there is none. `bad` is the thread's own first.
__device__ int32_t first_bad(int32_t bad) {
  constexpr int32_t kNone = 0x7fffffff;
  if (!__syncthreads_or(bad != kNone)) return 0;
  SPARROW_SHARED(int32_t, lowest);
  if (threadIdx.x == 0) lowest = kNone;
  __syncthreads();
  if (bad != kNone) atomicMin(&lowest, bad);
  __syncthreads();
  return lowest + 1;
}

// One whole warp.
__device__ void link_siblings(const Nodes& nodes, int num_nodes, int slots, int32_t* next_sibling) {
  for (int begin = (slots - 1) / kWarp * kWarp; begin >= 0; begin -= kWarp) {
    const int node = begin + lane();
    const bool is_child = node > 0 && node < num_nodes;
    const uint32_t children = __ballot_sync(kWholeWarp, is_child);
    int32_t next = -1;
    if (is_child) {
      const int32_t above = nodes.parent[node];
      const uint32_t siblings = __match_any_sync(children, above);
      const uint32_t later = siblings & (kWholeWarp << lane()) & ~(1u << lane());
      next = later != 0 ? begin + __ffs(static_cast<int>(later)) - 1 : nodes.first_child[above];
      __syncwarp(children);
      if ((siblings & ((1u << lane()) - 1)) == 0) nodes.first_child[above] = node;
    }
    if (node < slots) next_sibling[node] = next;
    __syncwarp();
  }
}

__device__ void climb_inside_word(const Nodes& nodes, int node) {
  const int word = node / kWordBits;
  uint64_t inner = uint64_t{1} << (node % kWordBits);
  int32_t above = nodes.parent[node];
  while (above >= 0 && above / kWordBits == word) {
    inner |= uint64_t{1} << (above % kWordBits);
    above = nodes.parent[above];
  }
  nodes.inner[node] = inner;
  nodes.exit[node] = above;
}

__device__ void write_node(const Nodes& nodes, int32_t node, int num_words, const TreeRows& tree) {
  int32_t num_ancestors = 0;
  int32_t above = node;
  int64_t* words = tree.ancestors + static_cast<int64_t>(node) * num_words;
  for (int w = num_words - 1; w >= 0; --w) {
    uint64_t bits = 0;
    if (above >= 0 && above / kWordBits == w) {
      bits = nodes.inner[above];
      above = nodes.exit[above];
    }
    words[w] = static_cast<int64_t>(bits);
    num_ancestors += __popcll(bits);
  }
  tree.depth[node] = num_ancestors - 1;
  tree.parent[node] = nodes.parent[node];
  tree.first_child[node] = nodes.first_child[node];
}

__global__ void __launch_bounds__(kMostThreads) build_tree_kernel(const BuildTree call) {
  const int64_t b = blockIdx.x;
  const int slots = static_cast<int>(call.num_slots), words = static_cast<int>(call.num_words);
  const int first = static_cast<int>(threadIdx.x), step = static_cast<int>(blockDim.x);
  const Nodes nodes(dynamic_shared(), slots);
  const TreeRows tree = rows_of(call, b);
  const int32_t* parent = call.parent[b];
  int num_nodes = call.num_nodes == nullptr
                      ? slots
                      : static_cast<int>(clamp(call.num_nodes[b], 0, call.num_slots));

  int32_t bad = 0x7fffffff;
  for (int node = slots - 1 - first; node >= 0; node -= step) {
    const int32_t above = parent[node];
    nodes.parent[node] = above;
    nodes.first_child[node] = -1;
    if (node < num_nodes && !may_be_parent(above, node)) bad = node;
  }
  const int32_t status = first_bad(bad);
  if (status != 0) {
    num_nodes = 1;
    if (first == 0) nodes.parent[0] = -1;
    __syncthreads();
  }

  if (warp() == 0) {
    link_siblings(nodes, num_nodes, slots, tree.next_sibling);
  } else {
    for (int node = first - kWarp; node < num_nodes; node += step - kWarp) {
      climb_inside_word(nodes, node);
    }
  }
  __syncthreads();
  for (int node = first; node < slots; node += step) {
    if (node < num_nodes) {
      write_node(nodes, node, words, tree);
    } else {
      write_padding(tree, node, words);
    }
  }
  if (first == 0) call.status[b] = status;
}

__global__ void serial_kernel(const BuildTree call) {
  const int64_t b = blockIdx.x;
  const int64_t num_nodes = call.num_nodes == nullptr ? call.num_slots : call.num_nodes[b];
  call.status[b] =
      layout_tree(call.parent[b], num_nodes, call.num_slots, call.num_words, rows_of(call, b));
}

}  // namespace

void build_tree(const BuildTree& call, Stream stream) {
  if (!fits_in_shared(node_bytes(call.num_slots))) {
    launch("build_tree", serial_kernel, {.blocks = call.batch, .threads = 1}, stream, call);
    return;
  }
  launch("build_tree", build_tree_kernel,
         {.blocks = call.batch,
          .threads = whole_warps(call.num_slots + kWarp, kMostThreads),
          .shared_bytes = node_bytes(call.num_slots)},
         stream, call);
}

}  // namespace sparrow::cuda
