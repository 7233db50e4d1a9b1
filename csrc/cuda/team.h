// The threads that walk one request as one: how a row of ids is cut among their warps, and how the
// warps of a cluster add up.
#pragma once

#include "cuda/mailbox.h"
#include "cuda/row.h"

namespace sparrow::cuda {

inline constexpr int kMaxWarps = 16;
inline constexpr int kMaxCluster = 16;
inline constexpr int kMaxParts = kMaxWarps * kMaxCluster;

// What the warps of a cluster bring one another, by turns.
struct Exchange {
  Mailbox<kMaxParts> boxes[2];
};

// How a row is cut. Part p holds groups [p * groups, (p + 1) * groups); a block's parts are
// neighbours.
struct Cut {
  int parts, groups;
  int64_t past;  // groups of a whole row
};

// The threads that walk one request as one.
class Team {
 public:
  __device__ Team(const Cut& cut, Exchange& exchange)
      : exchange_(exchange),
        warps_(static_cast<int>(blockDim.x) / kWarp),
        first_part_(static_cast<int>(cluster_rank()) * warps_),
        part_(first_part_ + warp()),
        parts_(cut.parts),
        begin_(min(int64_t{part_} * cut.groups, cut.past)),
        end_(min(begin_ + cut.groups, cut.past)),
        kept_(first_part_ * int64_t{cut.groups}) {}

  __device__ int part() const { return part_; }
  __device__ int num_parts() const { return parts_; }
  __device__ int64_t begin() const { return begin_; }
  __device__ int64_t end() const { return end_; }
  __device__ bool writes() const { return part_ == 0 && lane() == 0; }

  // Where this block keeps a group of its parts, in weights.
  __device__ int64_t place(int64_t group) const { return (group - kept_) * kGroup; }

  // Whether `id` is in this warp's part, and in this lane's groups of it.
  __device__ bool holds(int64_t id) const {
    const int64_t group = id / kGroup;
    return group >= begin_ && group < end_;
  }
  __device__ bool owns(int64_t id) const {
    return holds(id) && (id / kGroup - begin_) % kWarp == lane();
  }

  // Every warp brings one pair; all parts' pairs come back, until the call after the next.
  __device__ const Masses* gather(const Masses& own) {
    Mailbox<kMaxParts>& box = exchange_.boxes[turn_ % 2];
    if (threadIdx.x == 0) box.expect(parts_);
    __syncwarp();  // all lanes have read the turn before, and need it no more
    if (lane() < static_cast<int>(cluster_size())) box.send(lane(), part_, own);
    box.wait(turn_ / 2 % 2);
    ++turn_;
    return box.pairs;
  }

  __device__ Masses sum(const Masses* brought) const {
    Masses own{0, 0};
    for (int p = lane(); p < parts_; p += kWarp) {
      own.target += brought[p].target;
      own.draft += brought[p].draft;
    }
    return {warp_sum(own.target), warp_sum(own.draft)};
  }

 private:
  Exchange& exchange_;
  int warps_, first_part_, part_, parts_;
  int64_t begin_, end_, kept_;
  unsigned turn_ = 0;
};

}  // namespace sparrow::cuda
