// One node of a residual walk, kept by a team of threads: see residual.cu.
#pragma once

#include "cuda/row.h"
#include "cuda/team.h"
#include "kernels/accept/residual.h"
#include "kernels/accept/sampling_call.h"

namespace sparrow::cuda {

// The kept weights of one warp's part of both rows.
struct Kept {
  float* target;
  float* draft;
};

// The distributions of one node while its children are tried, as residual_walk wants them.
template <typename Weights>
class KeptNode {
 public:
  using Element = typename Weights::Element;

  __device__ KeptNode(Team& team, const AcceptTreeResidual<Weights>& call, const ResidualInputs& in,
                      const Kept& own, int64_t b, int64_t node, FirstTrial first)
      : team_(team),
        call_(call),
        in_(in),
        own_(own),
        node_(node),
        target_(call.target.row(b, node), call.vocab),
        draft_(call.draft.row(b, node), call.vocab) {
    if (first) {
      // Not waited for before it is asked for, after the rows.
      first_id_ = in.tokens[first.child];
      first_target_ = target_.data[first_id_];
      first_draft_ = draft_.data[first_id_];
    }
    first ? load<true>() : load<false>();
  }

  __device__ WeightPair read(int64_t id) const {
    const bool is_first = id == first_id_;
    return {
        call_.target.weights(to_float(is_first ? first_target_ : target_.data[id]),
                             highest_target_),
        call_.draft.weights(to_float(is_first ? first_draft_ : draft_.data[id]), highest_draft_)};
  }

  __device__ bool accepts(double uniform, WeightPair pair) const {
    return remainder_.accepts(uniform, pair);
  }

  // What is to be done meanwhile is, while masses travel.
  template <typename Meanwhile>
  __device__ void refuse(int64_t child, int64_t id, WeightPair pair, const Meanwhile& meanwhile) {
    if (!is_mass(remainder_.target_mass)) return meanwhile();  // accepts nothing, and never will
    remainder_.share = remainder_.share_after_refusal();
    if (team_.holds(id)) {
      if (team_.owns(id)) {
        const int64_t place = id - team_.begin() * kGroup;
        own_.target[place] = static_cast<float>(remainder_.left(pair));
        own_.draft[place] = 0;
        own_draft_ = lane_draft();
      }
      __syncwarp();
      part_.draft = warp_sum(own_draft_);
    }
    weigh_left(meanwhile);
    if (is_mass(remainder_.target_mass)) return;
    restore(child);
    remainder_.share = 0;
    weigh_left([] {});
  }

  __device__ void bonus(double uniform, int64_t* id) const {
    const double mass = remainder_.target_mass;
    if (!is_mass(mass)) {
      if (team_.writes()) *id = kNoToken;
      return;
    }
    const DrawnPart drawn = team_.draw(uniform, mass);
    if (drawn.part < 0) return;
    const int64_t token =
        draw_id(team_.begin(), team_.end(), drawn, [&](int64_t group, float (&left)[kGroup]) {
          weigh(static_cast<int>(group - team_.begin()), halves_of_share(), left);
        });
    if (lane() == 0) *id = token;
  }

 private:
  // Brings this warp's part of the rows in, as weights, and their masses.
  template <bool kWithDraft>
  __device__ void load() {
    constexpr int kLoads = 10;  // groups a lane and row, in flight
    constexpr float kBeyond = Weights::kNeedsHighest ? -kInfinity : 0.0f;
    RoundedSum target_sum, draft_sum;
    bool target_is_valid = true, draft_is_valid = true;
    const auto add = [&](const float (&target)[kGroup], const float (&draft)[kGroup]) {
      target_sum.add(target);
      if constexpr (kWithDraft) draft_sum.add(draft);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        target_is_valid &= target[j] >= 0;
        if constexpr (kWithDraft) draft_is_valid &= draft[j] >= 0;
      }
    };
    float highest_target = -kInfinity, highest_draft = -kInfinity;
    for (int base = 0; base < team_.groups(); base += kLoads * kWarp) {
      float target[kLoads][kGroup], draft[kLoads][kGroup] = {};
      const int64_t first = team_.begin() + base;
      target_.load_strided(first, team_.end(), lane(), kWarp, kBeyond, target);
      if constexpr (kWithDraft) {
        draft_.load_strided(first, team_.end(), lane(), kWarp, kBeyond, draft);
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int group = base + i * kWarp + lane();
        if (group >= team_.groups()) continue;
        keep(own_.target, group, target[i]);
        if constexpr (kWithDraft) keep(own_.draft, group, draft[i]);
        if constexpr (!Weights::kNeedsHighest) {
          add(target[i], draft[i]);
        } else {
#pragma unroll
          for (int j = 0; j < kGroup; ++j) {
            highest_target = max(highest_target, target[i][j]);
            if constexpr (kWithDraft) highest_draft = max(highest_draft, draft[i][j]);
          }
        }
      }
    }
    if constexpr (Weights::kNeedsHighest) {
      share_highest(highest_target, highest_draft);
      for (int i = lane(); i < team_.groups(); i += kWarp) {
        float target[kGroup], draft[kGroup] = {};
        kept(own_.target, i, target);
        if constexpr (kWithDraft) kept(own_.draft, i, draft);
#pragma unroll
        for (int j = 0; j < kGroup; ++j) {
          target[j] = call_.target.weights(target[j], highest_target_);
          if constexpr (kWithDraft) draft[j] = call_.draft.weights(draft[j], highest_draft_);
        }
        keep(own_.target, i, target);
        if constexpr (kWithDraft) keep(own_.draft, i, draft);
        add(target, draft);
      }
    }
    constexpr double kNan = __builtin_nanf("");
    own_draft_ = draft_is_valid ? draft_sum.value() : kNan;
    part_ = {warp_sum(target_is_valid ? target_sum.value() : kNan), warp_sum(own_draft_)};
    add_up([] {});
  }

  __device__ void share_highest(float target, float draft) {
    const Masses highest = team_.highest({warp_max(target), warp_max(draft)});
    highest_target_ = static_cast<float>(highest.target);
    highest_draft_ = static_cast<float>(highest.draft);
  }

  // The refused siblings up to `child` weigh again what they weighed; the draft is without them.
  __device__ void restore(int64_t child) {
    for (int64_t s = in_.tree.child(node_); s >= 0; s = s == child ? -1 : in_.tree.sibling(s)) {
      const int64_t id = in_.tokens[s];
      if (id < 0 || id >= call_.vocab || !team_.owns(id)) continue;
      own_.target[id - team_.begin() * kGroup] = read(id).target;
    }
    __syncwarp();
  }

  // The share as a sum of two floats.
  struct Halves {
    float high, low;
  };
  __device__ Halves halves_of_share() const {
    const double share = remainder_.share < 1e38 ? remainder_.share : 1e38;
    const float high = static_cast<float>(share);
    return {high, static_cast<float>(share - high)};
  }

  // left(i) of one of this warp's groups.
  __device__ void weigh(int group, Halves share, float (&left)[kGroup]) const {
    kept(own_.target, group, left);
    if (share.high == 0) return;
    float draft[kGroup];
    kept(own_.draft, group, draft);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      const float rest = fmaf(-share.low, draft[j], fmaf(-share.high, draft[j], left[j]));
      left[j] = rest > 0 ? rest : 0.0f;
    }
  }

  template <typename Meanwhile>
  __device__ void weigh_left(const Meanwhile& meanwhile) {
    const Halves share = halves_of_share();
    RoundedSum sum;
    for (int group = lane(); group < team_.groups(); group += kWarp) {
      float left[kGroup];
      weigh(group, share, left);
      sum.add(left);
    }
    part_.target = warp_sum(sum.value());
    add_up(meanwhile);
  }

  template <typename Meanwhile>
  __device__ void add_up(const Meanwhile& meanwhile) {
    const Masses masses = team_.sum(part_, meanwhile);
    remainder_.target_mass = masses.target;
    remainder_.draft_mass = masses.draft;
  }

  // What of the draft is left in this lane's groups: summed again, not subtracted from.
  __device__ double lane_draft() const {
    RoundedSum sum;
    for (int group = lane(); group < team_.groups(); group += kWarp) {
      float draft[kGroup];
      kept(own_.draft, group, draft);
      sum.add(draft);
    }
    return sum.value();
  }

  __device__ static void keep(float* row, int group, const float (&weights)[kGroup]) {
    reinterpret_cast<float4*>(row)[group] =
        make_float4(weights[0], weights[1], weights[2], weights[3]);
  }
  __device__ static void kept(const float* row, int group, float (&weights)[kGroup]) {
    const float4 four = reinterpret_cast<const float4*>(row)[group];
    weights[0] = four.x;
    weights[1] = four.y;
    weights[2] = four.z;
    weights[3] = four.w;
  }

  Team& team_;
  const AcceptTreeResidual<Weights>& call_;
  const ResidualInputs& in_;
  Kept own_;
  int64_t node_;
  VocabularyRow<Element> target_, draft_;
  int64_t first_id_ = -1;
  Element first_target_{}, first_draft_{};
  float highest_target_ = 0, highest_draft_ = 0;
  Remainder remainder_;
  Masses part_;           // of this warp
  double own_draft_ = 0;  // of this lane
};

}  // namespace sparrow::cuda
