// log_softmax and the k best, in one pass over each row of logits and a merge.
//
//   key(id) = logit, then lower id, as one 64-bit integer: all keys of a row differ
//   floor   = the k-th largest of a tile's keys of pairs, each the best of 64 ids: at least k keys
//             reach it, and only k pairs can hold more such keys, so at most 64 k do
//   rank    = how many of those are larger: below k, it is the place in the result
//   logprob = (logit - highest) - log(sum of exp(logit - highest))
//
// Grid: rank_tiles gives each tile of 4,096 ids a block of 128 threads (8 rows of 152k: 304 blocks,
// at most three a multiprocessor of 132, where 152 of twice the size are two), and past 64 tiles a
// row each tile of 8,192 a block of 256; merge_tiles gives each row one. Two launches rather than a
// last arriver: no counter to keep, and the second begins while the first is at work (dependent.h).
// Who loads what: a thread 8 groups of 4 ids into registers, all in flight before the first is
// used; keys and sums of tiles go through scratch [R, tiles, k] of 8 bytes and [R, tiles] of 16.
// Bytes: R * V * sizeof(Element), one exponential an id. Few rows are bound by neither: 8 of 152k
// in bfloat16 took 12.8 us on an H200, their bytes 0.5 (bench/results/bench-trees.csv, of tiles of
// 8,192 and a merge that began later). Of random
// logits little more than k keys reach a floor, so ranking costs next to nothing; sorted rows cost
// the same but for the 64 k. Tried on paper and left: a list of the k best a warp (inserts one at a
// time where logits ascend), radix selection (more passes than the row is worth).
// Precision: a lane adds its 32 exponentials as four pairs of floats, all else in double, as
// log(1 + tiny) needs.
// Relies on: 1 <= k <= 64, V below 2^31. A NaN ranks as -inf and makes its row's values NaN.
#include "cuda/dependent.h"
#include "cuda/launch.h"
#include "cuda/row.h"
#include "cuda/topk.h"
#include "kernels/exp.h"

namespace sparrow::cuda {
namespace {

constexpr int kFewThreads = 128, kManyThreads = 256;  // a tile
constexpr int kMostSmallTiles = 64;                   // a row
constexpr int kMergeThreads = 256;
constexpr int kLoads = 8;  // groups a thread
constexpr int kThreadIds = kLoads * kGroup;
static_assert(kMaxTopk <= kFewThreads / 2);  // pairs of threads

using Key = unsigned long long;
constexpr Key kNoKey = 0;  // below that of any logit

// Ordered as (logit, -id); -0 and 0 are equal, a NaN is -inf.
__device__ inline Key key_of(float logit, uint32_t id) {
  const uint32_t bits = bits_of(logit == logit ? logit + 0.0f : -kInfinity);
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return (Key{ordered} << 32) | (0xffffffffu - id);
}

__device__ inline float logit_of(Key key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return float_of(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

__device__ inline int64_t id_of(Key key) { return 0xffffffffu - static_cast<uint32_t>(key); }

// exp(x - highest) summed over some ids; highest is -inf where they are all masked.
struct Part {
  double sum;
  float highest;
};
static_assert(sizeof(Part) == 16);

__device__ inline double sum_at(const Part& part, float highest) {
  if (part.highest == -kInfinity) return part.sum;  // 0, or NaN
  return part.sum * exp_of_nonpositive(part.highest - highest);
}

// The place of each of `count` different keys among them, by the whole block: put(key, place).
template <typename Put>
__device__ void rank_keys(const Key* keys, int count, const Put& put) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += blockDim.x) {
    const Key own = keys[i];
    int place = 0;
    for (int other = 0; other < count; ++other) place += keys[other] > own;
    put(own, place);
  }
}

template <int kThreads>
struct TileShared {
  Key pairs[kThreads / 2];  // the best of each pair of lanes
  Key floor;
  int count;
  Part parts[kThreads / kWarp];
  Key keys[kMaxTopk * 2 * kThreadIds];  // those that reach the floor, in no order
};
static_assert(sizeof(TileShared<kManyThreads>) <= kSharedBytes);

// Grid: one block a tile, tiles of a row next to one another. keys is [R, tiles, k], each tile's in
// order, kNoKey past its last; parts is [R, tiles].
template <typename Element, int kThreads>
__global__ void __launch_bounds__(kThreads, 2 * kManyThreads / kThreads)
    rank_tiles(TopkLogprobs<Element> call, int num_tiles, Key* tile_keys, Part* tile_parts) {
  constexpr int kTileGroups = kThreads * kLoads, kPairs = kThreads / 2;
  SPARROW_SHARED(TileShared<kThreads>, shared);
  let_next_begin();
  const int thread = static_cast<int>(threadIdx.x), k = static_cast<int>(call.k);
  const int64_t r = blockIdx.x / num_tiles, first = int64_t{blockIdx.x % num_tiles} * kTileGroups;
  const VocabularyRow row(call.logits[r], call.vocab);
  float logits[kLoads][kGroup];
  row.load_strided(first, first + kTileGroups, thread, kThreads, -kInfinity, logits);
  const auto id_at = [&](int i, int j) -> int64_t {
    return (first + i * kThreads + thread) * kGroup + j;
  };

  // The best of this thread's ids; they ascend, so the first of equals is the lowest.
  float best = -kInfinity;
  uint32_t best_id = static_cast<uint32_t>(id_at(0, 0));
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      if (logits[i][j] > best) {
        best = logits[i][j];
        best_id = static_cast<uint32_t>(id_at(i, j));
      }
    }
  }
  const Key own = best_id < call.vocab ? key_of(best, best_id) : kNoKey;
  const Key beside = __shfl_xor_sync(kWholeWarp, own, 1);
  const Key pair = own > beside ? own : beside;
  if (thread % 2 == 0) shared.pairs[thread / 2] = pair;
  if (thread == 0) {
    shared.floor = kNoKey + 1;
    shared.count = 0;
  }

  const float highest = warp_max(best);
  const float reference = highest == -kInfinity ? 0.0f : highest;
  GroupSum sum;
#pragma unroll
  for (int i = 0; i < kLoads; ++i) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) sum.of[j].add(exp_of_nonpositive(logits[i][j] - reference));
  }
  const double total = warp_sum(sum.value());
  if (lane() == 0) shared.parts[warp()] = {total, highest};
  __syncthreads();

  // The two lanes of a pair count half of the larger pairs each.
  int larger = 0;
  for (int i = 0; i < kPairs / 2; ++i) {
    larger += shared.pairs[thread % 2 * (kPairs / 2) + i] > pair;
  }
  larger += __shfl_xor_sync(kWholeWarp, larger, 1);
  if (thread % 2 == 0 && larger == k - 1 && pair != kNoKey) shared.floor = pair;
  __syncthreads();

  const Key floor = shared.floor;
  if (own >= floor) {
#pragma unroll
    for (int i = 0; i < kLoads; ++i) {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const Key key = key_of(logits[i][j], static_cast<uint32_t>(id_at(i, j)));
        if (id_at(i, j) < call.vocab && key >= floor) {
          shared.keys[atomicAdd(&shared.count, 1)] = key;
        }
      }
    }
  }
  __syncthreads();

  Key* keys = tile_keys + int64_t{blockIdx.x} * k;
  rank_keys(shared.keys, shared.count, [&](Key key, int place) {
    if (place < k) keys[place] = key;
  });
  for (int place = shared.count + thread; place < k; place += kThreads) keys[place] = kNoKey;
  if (thread == 0) {
    Part tile{0, -kInfinity};
    for (const Part& part : shared.parts) tile.highest = max(tile.highest, part.highest);
    for (const Part& part : shared.parts) tile.sum += sum_at(part, tile.highest);
    tile_parts[blockIdx.x] = tile;
  }
}

struct MergeShared {
  Key floor;
  int count;
  double log_sum;
  float highest;
};

// Grid: one block a row. Dynamic shared memory: MergeShared, then tiles * k keys. The floor is the
// smallest of the tiles' ceil(k / tiles)-th keys: at least k keys reach it.
template <typename Element>
__global__ void __launch_bounds__(kMergeThreads)
    merge_tiles(TopkLogprobs<Element> call, int num_tiles, const Key* tile_keys,
                const Part* tile_parts) {
  wait_for_kernel_before();
  MergeShared& shared = *reinterpret_cast<MergeShared*>(dynamic_shared());
  Key* reaching = reinterpret_cast<Key*>(dynamic_shared() + sizeof(MergeShared));
  const int64_t r = blockIdx.x;
  const int k = static_cast<int>(call.k), num_keys = num_tiles * k;
  const Key* keys = tile_keys + r * num_keys;
  const Part* parts = tile_parts + r * num_tiles;
  if (warp() == 0) {
    const int place = (k + num_tiles - 1) / num_tiles - 1;
    Key floor = ~kNoKey;
    float highest = -kInfinity;
    for (int t = lane(); t < num_tiles; t += kWarp) {
      floor = min(floor, keys[int64_t{t} * k + place]);
      highest = max(highest, parts[t].highest);
    }
    highest = warp_max(highest);
    double sum = 0;
    for (int t = lane(); t < num_tiles; t += kWarp) sum += sum_at(parts[t], highest);
    sum = warp_sum(sum);
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) {
      floor = min(floor, __shfl_xor_sync(kWholeWarp, floor, step));
    }
    if (lane() == 0) shared = {max(floor, kNoKey + 1), 0, log(sum), highest};
  }
  __syncthreads();
  const Key floor = shared.floor;
  for (int i = static_cast<int>(threadIdx.x); i < num_keys; i += kMergeThreads) {
    const Key key = keys[i];
    if (key >= floor) reaching[atomicAdd(&shared.count, 1)] = key;
  }
  __syncthreads();
  rank_keys(reaching, shared.count, [&](Key key, int place) {
    if (place >= k) return;
    const double logprob = (static_cast<double>(logit_of(key)) - shared.highest) - shared.log_sum;
    call.values[r * k + place] = static_cast<float>(logprob);
    call.ids[r * k + place] = id_of(key);
  });
}

}  // namespace

template <typename Element>
void topk_logprobs(const TopkLogprobs<Element>& call, Stream stream) {
  if (call.num_rows == 0 || call.k == 0) return;
  const bool is_small = call.vocab <= kMostSmallTiles * kFewThreads * kThreadIds;
  const int threads = is_small ? kFewThreads : kManyThreads;
  const int64_t tile = threads * kThreadIds, num_tiles = (call.vocab + tile - 1) / tile;
  Key* keys = call.scratch.template get<Key>(call.num_rows * num_tiles * call.k);
  Part* parts = call.scratch.template get<Part>(call.num_rows * num_tiles);
  const int tiles = static_cast<int>(num_tiles);
  launch("topk_logprobs",
         is_small ? rank_tiles<Element, kFewThreads> : rank_tiles<Element, kManyThreads>,
         {.blocks = call.num_rows * num_tiles, .threads = threads}, stream, call, tiles, keys,
         parts);
  launch(
      "topk_logprobs", merge_tiles<Element>,
      {.blocks = call.num_rows,
       .threads = kMergeThreads,
       .shared_bytes = sizeof(MergeShared) + static_cast<size_t>(num_tiles * call.k) * sizeof(Key),
       .dependent = true},
      stream, call, tiles, keys, parts);
}

template void topk_logprobs(const TopkLogprobs<float>&, Stream);
template void topk_logprobs(const TopkLogprobs<Half>&, Stream);
template void topk_logprobs(const TopkLogprobs<BFloat16>&, Stream);

}  // namespace sparrow::cuda
