// The threads that walk one request as one: how a row of ids is cut among their warps, and how the
// warps of a cluster add up.
#pragma once

#include "cuda/mailbox.h"
#include "cuda/row.h"

namespace sparrow::cuda {

inline constexpr int kMaxWarps = 8;
inline constexpr int kMaxCluster = 16;

// What the warps of a block, and the blocks of a cluster, bring one another, by turns.
struct Exchange {
  Masses of_warp[2][kMaxWarps];
  Mailbox<kMaxCluster> boxes[2];  // a pair for each block
};

// How a row is cut. Part p holds groups [p * groups, (p + 1) * groups); a block's parts are
// neighbours.
struct Cut {
  int parts, groups;
  int kept;      // groups that a part takes where it is kept: whole turns of a warp
  int64_t past;  // groups of a whole row
};

// The threads that walk one request as one.
class Team {
 public:
  __device__ Team(const Cut& cut, Exchange& exchange)
      : exchange_(exchange),
        warps_(static_cast<int>(blockDim.x) / kWarp),
        part_(static_cast<int>(cluster_rank()) * warps_ + warp()),
        begin_(static_cast<int>(min(int64_t{part_} * cut.groups, cut.past))),
        end_(static_cast<int>(min(int64_t{begin_} + cut.groups, cut.past))) {}

  __device__ int part() const { return part_; }
  __device__ int begin() const { return begin_; }
  __device__ int end() const { return end_; }
  __device__ bool writes() const { return part_ == 0 && lane() == 0; }

  // Whether `id`, one of the row's, is in this warp's part, and in this lane's groups of it.
  __device__ bool holds(int64_t id) const {
    const int group = group_of(id);
    return group >= begin_ && group < end_;
  }
  __device__ bool owns(int64_t id) const {
    return holds(id) && (group_of(id) - begin_) % kWarp == lane();
  }

  // Over all parts; every warp brings its own. Calls meanwhile() while they travel.
  template <typename Meanwhile>
  __device__ Masses sum(const Masses& own, const Meanwhile& meanwhile) {
    const auto add = [](double a, double b) { return a + b; };
    return exchange(own, 0.0, add, meanwhile);
  }
  __device__ Masses highest(const Masses& own) {
    const auto higher = [](double a, double b) { return b > a ? b : a; };
    return exchange(own, -kInfinity, higher, [] {});
  }

  // Draws by the target masses of the last `sum`, which add up to `mass`: where to go on, for the
  // one warp whose part it is; part -1 for the others.
  __device__ DrawnPart draw(double uniform, double mass) {
    constexpr DrawnPart kElsewhere{-1, 0, 0};
    const unsigned turn = turn_ - 1;
    const int blocks = static_cast<int>(cluster_size());
    DrawnPart drawn{0, 0, threshold_of(uniform, mass)};
    if (blocks > 1) {
      const Masses* block = box(turn).pairs;
      drawn = draw_part(blocks, drawn, [&](int rank) { return block[rank].target; });
      if (drawn.part != static_cast<int>(cluster_rank())) return kElsewhere;
    }
    const Masses* warps = of_warp(turn);
    drawn = draw_part(warps_, drawn, [&](int w) { return warps[w].target; });
    return drawn.part == warp() ? drawn : kElsewhere;
  }

 private:
  // Ids lie below 2^31.
  __device__ static int group_of(int64_t id) {
    return static_cast<int>(static_cast<uint32_t>(id) / kGroup);
  }

  __device__ Masses* of_warp(unsigned turn) { return exchange_.of_warp[turn % 2]; }
  __device__ Mailbox<kMaxCluster>& box(unsigned turn) { return exchange_.boxes[turn % 2]; }

  // Sixteen pairs are few enough for every lane to hold one: first those of the block's warps, then
  // those of the blocks.
  static constexpr int kHalf = kWarp / 2;
  static_assert(kMaxWarps <= kHalf && kMaxCluster <= kHalf);

  template <typename Combine>
  __device__ static Masses combined(const Masses* pairs, int count, double none,
                                    const Combine& combine) {
    Masses all{none, none};
    const int own = lane() % kHalf;
    if (own < count) all = pairs[own];
#pragma unroll
    for (int step = kHalf / 2; step > 0; step /= 2) {
      all.target = combine(all.target, __shfl_xor_sync(kWholeWarp, all.target, step));
      all.draft = combine(all.draft, __shfl_xor_sync(kWholeWarp, all.draft, step));
    }
    return all;
  }

  // One pair a block travels, not one a warp: a block takes in what is sent to it one by one.
  template <typename Combine, typename Meanwhile>
  __device__ Masses exchange(const Masses& own, double none, const Combine& combine,
                             const Meanwhile& meanwhile) {
    Masses* warps = of_warp(turn_);
    Mailbox<kMaxCluster>& from_blocks = box(turn_);
    const int blocks = static_cast<int>(cluster_size());
    if (lane() == 0) warps[warp()] = own;
    if (blocks > 1 && threadIdx.x == 0) from_blocks.expect(blocks);
    // Behind it nobody reads the turn before, neither of the block's warps nor of the cluster's.
    __syncthreads();
    Masses all{};
    if (blocks == 1 || warp() == 0) all = combined(warps, warps_, none, combine);
    if (blocks > 1 && static_cast<int>(threadIdx.x) < blocks) {
      from_blocks.send(lane(), static_cast<int>(cluster_rank()), all);
    }
    meanwhile();
    if (blocks > 1) {
      from_blocks.wait(turn_ / 2 % 2);
      all = combined(from_blocks.pairs, blocks, none, combine);
    }
    ++turn_;
    return all;
  }

  Exchange& exchange_;
  int warps_, part_;
  int begin_, end_;
  unsigned turn_ = 0;
};

}  // namespace sparrow::cuda
