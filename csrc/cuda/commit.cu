// Commits one path a request: moves its rows in every cache, gathers its hidden rows, advances the
// prefix; commit_tree finds the path too. One launch for all layers.
//
//   slot prefix_len + path[k] -> slot prefix_len + k    k = 0 .. accept_length, every K and V
//   prefix_len += accept_length + 1
//
// Grid: (slices, B), four warps that move and one that keeps the books. Every block finds the
// request's path for itself, which costs less than to hand it over. The first slices move cache
// rows: a thread owns one column, 16 bytes of every row of one head, and goes down the path with
// eight rows in flight; columns do not touch one another, so nothing waits. The other slices copy
// tiles of hidden rows. Meanwhile the fifth warp counts the block in, once all of its threads have
// read prefix_len: the request's last block to do so advances it, when nobody reads it any more.
// Bytes: 2 * (moved rows * Hkv * D * 2 * layers + S * L * H) elements; bound by latency.
// Relies on: keys and values share strides; no two caches overlap. Does not rely on values: moves
// that do not fit are skipped, a path that does not ascend is moved row by row.
// More than 128 layers (or 32 hidden ones) take several launches, of which the last advances.
#include <algorithm>

#include "cuda/accept.h"
#include "cuda/accept_path.h"
#include "cuda/block.h"
#include "cuda/bytes.h"
#include "cuda/counters.h"
#include "cuda/gather.h"
#include "cuda/hidden.h"
#include "cuda/launch.h"
#include "kernels/gather/commit.h"

namespace sparrow::cuda {
namespace {

constexpr int kMostTensors = 256;  // 128 layers, keys and values
constexpr int kRowsInFlight = 8;
constexpr int kMovers = kTileThreads;
constexpr int kThreads = kMovers + kWarp;  // the last warp keeps the books

// A path that is given, as a thread walks along it.
struct GivenPath {
  const int32_t* nodes;
  int64_t num_nodes;

  struct Cursor {
    const int32_t* node;
    __device__ int32_t next() { return *node++; }
  };
  __device__ Cursor begin() const { return {nodes}; }
  __device__ int32_t at(int64_t k) const { return nodes[k]; }
};

// Where the path comes from; `open` is called by the whole block.
struct PathOfTree {
  AcceptTree accept;

  __device__ TreePath open(int64_t b) const { return find_path(accept, b, dynamic_shared()); }
  __device__ void write(const TreePath& path, int64_t b) const {
    write_acceptance(path, accept.out, b, lane(), kWarp);
  }
};
struct PathOfCall {
  CommittedPath committed;

  __device__ GivenPath open(int64_t b) const {
    return {committed.path[b], num_committed(committed.accept_length[b], committed.max_path)};
  }
  __device__ void write(const GivenPath&, int64_t) const {}
};

// Tensors that share one shape and strides, in bytes.
struct Caches {
  char* tensors[kMostTensors];
  CacheRows rows;
  int64_t head_stride;
  uint32_t first;  // of the tensors, among those of all launches
  int width;
  uint32_t heads;
  uint32_t columns_a_row;
  uint32_t num_columns;  // of one request, in all tensors

  // The tensor, counted among all launches', of the column that a mover owns.
  __device__ uint32_t layer_of_thread() const {
    if (columns_a_row == 0) return first;
    return first + (blockIdx.x * kMovers + threadIdx.x) / columns_a_row / heads;
  }
};

struct Advance {
  PrefixLens prefix_lens;
  uint32_t* counters;  // [B]; null: another launch advances
  int64_t capacity;
};

template <int kBytes, typename Path>
__device__ void move_column(Access<kBytes>, const Path& path, int64_t b, int32_t prefix_len,
                            const CacheRows& cache, char* column) {
  using Type = typename Access<kBytes>::Type;
  const auto row = [&](int64_t offset) { return reinterpret_cast<Type*>(column + offset); };
  auto cursor = path.begin();
  for (int64_t begin = 0; begin < path.num_nodes; begin += kRowsInFlight) {
    Move moves[kRowsInFlight];
    bool is_moved[kRowsInFlight];
    bool ascends = true;
#pragma unroll
    for (int i = 0; i < kRowsInFlight; ++i) {
      const int64_t k = begin + i;
      const int32_t node = k < path.num_nodes ? cursor.next() : -1;
      is_moved[i] = path_move(cache, b, prefix_len, node, k, &moves[i]);
      ascends = ascends && (!is_moved[i] || node > k);
    }
    if (ascends) {
      Type rows[kRowsInFlight];
#pragma unroll
      for (int i = 0; i < kRowsInFlight; ++i) {
        if (is_moved[i]) rows[i] = *row(moves[i].from);
      }
#pragma unroll
      for (int i = 0; i < kRowsInFlight; ++i) {
        if (is_moved[i]) *row(moves[i].to) = rows[i];
      }
    } else {
#pragma unroll
      for (int i = 0; i < kRowsInFlight; ++i) {
        if (is_moved[i]) *row(moves[i].to) = *row(moves[i].from);
      }
    }
  }
}

// Every mover of a block: its column of the caches, or its part of a tile of hidden rows.
template <typename Path>
__device__ void move_slice(const Path& path, int64_t b, int32_t prefix_len, const Caches& caches,
                           const HiddenLayers& hidden) {
  const uint32_t moving_blocks = (caches.num_columns + kMovers - 1) / kMovers;
  if (blockIdx.x < moving_blocks) {
    const uint32_t column = blockIdx.x * kMovers + threadIdx.x;
    if (column >= caches.num_columns) return;
    const uint32_t plane = column / caches.columns_a_row;
    char* data = caches.tensors[plane / caches.heads] + plane % caches.heads * caches.head_stride +
                 int64_t{column % caches.columns_a_row} * caches.width;
    with_access(caches.width,
                [&](auto access) { move_column(access, path, b, prefix_len, caches.rows, data); });
  } else if (hidden.num_layers > 0) {
    hidden.copy(b, blockIdx.x - moving_blocks,
                [&](int64_t k) -> int64_t { return k < path.num_nodes ? path.at(k) : -1; });
  }
}

template <typename Source>
__global__ void __launch_bounds__(kThreads)
    commit_kernel(const __grid_constant__ Source source, const __grid_constant__ Caches caches,
                  const __grid_constant__ HiddenLayers hidden, const Advance advance) {
  const int64_t b = blockIdx.y;
  const int32_t prefix_len = advance.prefix_lens.of(caches.layer_of_thread())[b];
  const auto path = source.open(b);
  __syncthreads();  // every thread has read prefix_len
  if (threadIdx.x < kMovers) return move_slice(path, b, prefix_len, caches, hidden);

  if (advance.counters == nullptr) return;
  bool is_last = false;
  if (lane() == 0) {
    __threadfence();
    const uint32_t last = gridDim.x - 1;
    is_last = atomicInc(&advance.counters[b], last) == last;
    if (is_last) __threadfence();
  }
  if (__any_sync(kWholeWarp, is_last)) {
    __syncwarp();  // the other lanes come behind the fence too
    for (int64_t layer = lane(); layer < advance.prefix_lens.layers; layer += kWarp) {
      int32_t& own = advance.prefix_lens.of(layer)[b];
      own = advanced_prefix(own, path.num_nodes, advance.capacity);
    }
  }
  if (blockIdx.x == 0) source.write(path, b);
}

Caches caches_from(const CacheBatch& cache, size_t first) {
  Caches some = {};
  if (first >= cache.tensors.size() || cache.heads == 0 || cache.row_bytes == 0) return some;
  const size_t count = std::min<size_t>(kMostTensors, cache.tensors.size() - first);
  Width width;
  width.add(cache.row_bytes);
  width.add_stride(cache.rows.block_stride, cache.rows.pages.num_blocks);
  width.add_stride(cache.head_stride, cache.heads);
  width.add_stride(cache.rows.slot_stride, cache.rows.pages.block_size);
  for (size_t t = 0; t < count; ++t) {
    some.tensors[t] = cache.tensors[first + t];
    width.add(some.tensors[t]);
  }
  some.rows = cache.rows;
  some.head_stride = cache.head_stride;
  some.first = static_cast<uint32_t>(first);
  some.width = width.bytes();
  some.heads = static_cast<uint32_t>(cache.heads);
  const int64_t columns = cache.row_bytes / some.width;
  const int64_t all = columns * cache.heads * static_cast<int64_t>(count);
  if (all > INT32_MAX) check(cudaErrorInvalidConfiguration, "commit: heads * D of the cache");
  some.columns_a_row = static_cast<uint32_t>(columns);
  some.num_columns = static_cast<uint32_t>(all);
  return some;
}

constexpr int64_t blocks_for(int64_t columns) { return (columns + kMovers - 1) / kMovers; }

// What all three ops hand over: `states` may be without layers, `advances` false.
template <typename Source>
void commit(const char* name, const Source& source, int64_t batch, int64_t max_path,
            size_t shared_bytes, const PrefixLens& prefix_lens, bool advances,
            const CacheBatch& cache, const HiddenStates& states, const HiddenOut& out,
            Stream stream) {
  static_assert(sizeof(Source) + sizeof(Caches) + sizeof(HiddenLayers) + sizeof(Advance) <= 4096,
                "what every architecture takes as parameters");
  if (batch == 0) return;
  size_t tensor = 0, layer = 0;
  while (true) {
    const Caches caches = caches_from(cache, tensor);
    const HiddenLayers hidden = hidden_layers(states, out, batch, max_path, layer);
    tensor += kMostTensors;
    layer += kMostHiddenLayers;
    const bool is_last = tensor >= cache.tensors.size() && layer >= states.layers.size();
    const int64_t slices =
        blocks_for(caches.num_columns) + hidden.num_tiles(hidden.num_layers > 0 ? max_path : 0);
    const Advance advance{prefix_lens, advances && is_last ? counters(batch, stream) : nullptr,
                          cache.rows.pages.capacity()};
    if (slices > 0 || advance.counters != nullptr) {
      launch(name, commit_kernel<Source>,
             {.blocks = std::max<int64_t>(1, slices),
              .threads = kThreads,
              .shared_bytes = shared_bytes,
              .blocks_y = batch},
             stream, source, caches, hidden, advance);
    }
    if (is_last) return;
  }
}

}  // namespace

void compact_cache(const CompactCache& call, Stream stream) {
  commit("compact_cache_", PathOfCall{call.path}, call.path.batch, call.path.max_path, 0,
         call.prefix_lens, false, call.cache, {}, {}, stream);
}

void commit_path(const CommitPath& call, Stream stream) {
  commit("commit_path_", PathOfCall{call.path}, call.path.batch, call.path.max_path, 0,
         call.prefix_lens, true, call.cache, call.states, call.out, stream);
}

void commit_tree(const CommitTree& call, Stream stream) {
  const size_t bytes = path_bytes(call.accept.tree.num_slots);
  if (fits_in_shared(bytes)) {
    commit("commit_tree_", PathOfTree{call.accept}, call.accept.batch, call.accept.out.max_path,
           bytes, call.prefix_lens, true, call.cache, call.states, call.out, stream);
    return;
  }
  accept_tree(call.accept, stream);
  const AcceptanceBatch& accepted = call.accept.out;
  commit_path({.path = {.batch = call.accept.batch,
                        .max_path = accepted.max_path,
                        .path = {accepted.path, accepted.max_path},
                        .accept_length = accepted.accept_length},
               .prefix_lens = call.prefix_lens,
               .cache = call.cache,
               .states = call.states,
               .out = call.out},
              stream);
}

}  // namespace sparrow::cuda
