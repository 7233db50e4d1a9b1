// Selects the best nodes of one pool a block.
//
//   rank(node) = min(score(node), rank(parent(node)))
//   key(node)  = (rank, the lower node first), all different: a node is selected iff its key is at
//                least that of the (num_nodes - 1)-th best
//
// That key is found bit by bit from the top, each bit by one count over the block: at most
// 32 + log2(P) counts, fewer where a prefix already tells the selected from the others. No sort,
// no comparison of every pair. What is selected is then numbered in the order of the pool.
//
// Grid: (B). A thread a node, up to 1,024 threads. Shared memory: 12 bytes a node; a pool too large
// for it (beyond 8,192 nodes) is read from global memory, its ranks computed anew at each count.
// Bytes: 8 P read, 8 * num_nodes written; bound by latency. Relies on nothing about the values.
#include "cuda/block.h"
#include "cuda/launch.h"
#include "cuda/tree.h"
#include "kernels/element.h"
#include "kernels/tree/select.h"

namespace sparrow::cuda {
namespace {

constexpr int kMostThreads = 1024;
constexpr size_t kNodeBytes = sizeof(float) + 2 * sizeof(int32_t);

// As an unsigned number that orders as the float does, both zeros alike.
__device__ uint32_t ordered(float rank) {
  const uint32_t bits = bits_of(rank + 0.0f);
  return bits ^ (bits >> 31 != 0 ? 0xffffffffu : 0x80000000u);
}

// The rank of a node, climbed for from `scores` and `parent`.
__device__ float climbed_rank(const float* scores, const int32_t* parent, int64_t node) {
  float rank = __builtin_huge_valf();
  for (; node >= 0; node = pool_parent(parent, node)) {
    const float score = scores[node] == scores[node] ? scores[node] : kLowestRank;
    rank = score < rank ? score : rank;
  }
  return rank;
}

// A pool read where it is.
struct FarPool {
  const float* scores;
  const int32_t* parent;

  __device__ FarPool(const SelectTree& call, int64_t b, char*)
      : scores(call.scores[b]), parent(call.parent[b]) {}
  __device__ uint32_t rank(int node) const { return ordered(climbed_rank(scores, parent, node)); }

  __device__ void number(int, int) const {}
  // Where a selected node stands among the ascending `selected`.
  __device__ int32_t number_of(int64_t node, const int32_t* selected, int count) const {
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (selected[middle] < node) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// A pool in shared memory, ranked once. Every thread of the block makes it.
struct NearPool {
  float* scores;
  int32_t* parent;
  uint32_t* ranks;

  __device__ NearPool(const SelectTree& call, int64_t b, char* memory)
      : scores(reinterpret_cast<float*>(memory)),
        parent(reinterpret_cast<int32_t*>(scores + call.pool)),
        ranks(reinterpret_cast<uint32_t*>(parent + call.pool)) {
    const int size = static_cast<int>(call.pool);
    for (int node = static_cast<int>(threadIdx.x); node < size; node += blockDim.x) {
      scores[node] = call.scores[b][node];
      parent[node] = call.parent[b][node];
    }
    __syncthreads();
    for (int node = static_cast<int>(threadIdx.x); node < size; node += blockDim.x) {
      ranks[node] = ordered(climbed_rank(scores, parent, node));
    }
    __syncthreads();
  }
  __device__ uint32_t rank(int node) const { return ranks[node]; }

  // In the scores' place: they are not read again.
  __device__ void number(int node, int place) const {
    reinterpret_cast<int*>(scores)[node] = place;
  }
  __device__ int32_t number_of(int64_t node, const int32_t*, int) const {
    return reinterpret_cast<const int*>(scores)[node];
  }
};

template <typename Pool>
__device__ uint64_t key_of(const Pool& pool, int node) {
  return uint64_t{pool.rank(node)} << 32 | (0xffffffffu - static_cast<uint32_t>(node));
}

// The lowest key that is selected; any key where none is.
template <typename Pool>
__device__ uint64_t lowest_selected(const Pool& pool, int size, int chosen) {
  uint64_t lowest = 0;
  int counted = size;
  const int node_bits = 32 - __clz(size);
  for (int bit = 63; bit >= 0 && counted != chosen; --bit) {
    const uint64_t next = lowest | uint64_t{1} << bit;
    if (bit < 32 && bit >= node_bits) {  // set in every key
      lowest = next;
      continue;
    }
    int count = 0;
    for (int begin = 0; begin < size; begin += static_cast<int>(blockDim.x)) {
      const int node = begin + static_cast<int>(threadIdx.x);
      count += __syncthreads_count(node < size && key_of(pool, node) >= next);
    }
    if (count >= chosen) {
      lowest = next;
      counted = count;
    }
  }
  return lowest;
}

struct WarpCounts {
  int of[kMostThreads / kWarp];
};

// Calls visit(node, place) for every selected node, where place counts them in the pool's order.
template <typename Pool, typename Visit>
__device__ void number_selected(const Pool& pool, int size, uint64_t lowest, const Visit& visit) {
  SPARROW_SHARED(WarpCounts, counts);
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  int before = 0;  // selected nodes in front of these
  for (int begin = 0; begin < size; begin += static_cast<int>(blockDim.x)) {
    const int node = begin + static_cast<int>(threadIdx.x);
    const bool is_selected = node < size && key_of(pool, node) >= lowest;
    const uint32_t selected = __ballot_sync(kWholeWarp, is_selected);
    if (lane() == 0) counts.of[warp()] = __popc(selected);
    __syncthreads();
    int place = before + __popc(selected & ((1u << lane()) - 1));
    for (int w = 0; w < warps; ++w) {
      if (w < warp()) place += counts.of[w];
      before += counts.of[w];
    }
    if (is_selected) visit(node, place);
    __syncthreads();
  }
}

template <typename Pool>
__global__ void __launch_bounds__(kMostThreads) select_tree_kernel(const SelectTree call) {
  const int64_t b = blockIdx.x;
  const int size = static_cast<int>(call.pool), chosen = static_cast<int>(call.num_nodes) - 1;
  int32_t* selected = call.selected + b * chosen;
  int32_t* tree_parent = call.tree_parent + b * call.num_nodes;
  if (threadIdx.x == 0) tree_parent[0] = -1;
  if (chosen == 0) return;  // the whole block

  const Pool pool(call, b, dynamic_shared());
  const uint64_t lowest = lowest_selected(pool, size, chosen);
  number_selected(pool, size, lowest, [&](int node, int place) {
    selected[place] = node;
    pool.number(node, place);
  });
  for (int k = static_cast<int>(threadIdx.x); k < chosen; k += blockDim.x) {
    const int64_t above = pool_parent(pool.parent, selected[k]);
    tree_parent[k + 1] = above < 0 ? 0 : pool.number_of(above, selected, chosen) + 1;
  }
}

}  // namespace

void select_tree(const SelectTree& call, Stream stream) {
  const size_t bytes = static_cast<size_t>(call.pool) * kNodeBytes;
  const bool is_near = fits_in_shared(bytes);
  launch("select_tree", is_near ? select_tree_kernel<NearPool> : select_tree_kernel<FarPool>,
         {.blocks = call.batch,
          .threads = whole_warps(call.pool, kMostThreads),
          .shared_bytes = is_near ? bytes : 0},
         stream, call);
}

}  // namespace sparrow::cuda
