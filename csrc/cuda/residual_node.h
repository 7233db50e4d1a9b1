// One node of a residual walk, kept by a team of threads: see residual.cu.
#pragma once

#include "cuda/row.h"
#include "cuda/team.h"
#include "kernels/accept/residual.h"
#include "kernels/accept/sampling_call.h"

namespace sparrow::cuda {

// The kept weights of one block: both rows of its parts.
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
                      const Kept& kept, int64_t b, int64_t node, FirstTrial first)
      : team_(team),
        call_(call),
        in_(in),
        kept_(kept),
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

  __device__ void refuse(int64_t child, int64_t id, WeightPair pair) {
    if (!is_mass(remainder_.target_mass)) return;  // accepts nothing, and never will
    remainder_.share = remainder_.share_after_refusal();
    if (team_.holds(id)) {
      if (team_.owns(id)) {
        const int64_t place = team_.place(id / kGroup) + id % kGroup;
        kept_.target[place] = static_cast<float>(remainder_.left(pair));
        kept_.draft[place] = 0;
        own_draft_ = lane_draft();
      }
      __syncwarp();
      part_.draft = warp_sum(own_draft_);
    }
    weigh_left();
    if (is_mass(remainder_.target_mass)) return;
    restore(child);
    remainder_.share = 0;
    weigh_left();
  }

  __device__ void bonus(double uniform, int64_t* id) const {
    const double mass = remainder_.target_mass;
    if (!is_mass(mass)) {
      if (team_.writes()) *id = kNoToken;
      return;
    }
    const DrawnPart drawn = draw_part(team_.num_parts(), threshold_of(uniform, mass),
                                      [&](int p) { return brought_[p].target; });
    if (drawn.part != team_.part()) return;
    const int64_t token =
        draw_id(team_.begin(), team_.end(), drawn,
                [&](int64_t group, float (&left)[kGroup]) { weigh(group, left); });
    if (lane() == 0) *id = token;
  }

 private:
  // Brings this warp's part of the rows in, as weights, and their masses.
  template <bool kWithDraft>
  __device__ void load() {
    constexpr int kLoads = 5;  // groups a lane and row, in flight
    constexpr float kBeyond = Weights::kNeedsHighest ? -kInfinity : 0.0f;
    PairSum target_sum, draft_sum;  // not by four: registers
    bool target_is_valid = true, draft_is_valid = true;
    const auto add = [&](const float (&target)[kGroup], const float (&draft)[kGroup]) {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        target_is_valid &= target[j] >= 0;
        target_sum.add(target[j]);
        if constexpr (kWithDraft) {
          draft_is_valid &= draft[j] >= 0;
          draft_sum.add(draft[j]);
        }
      }
    };
    float highest_target = -kInfinity, highest_draft = -kInfinity;
    for (int64_t base = team_.begin(); base < team_.end(); base += kLoads * kWarp) {
      float target[kLoads][kGroup], draft[kLoads][kGroup] = {};
      target_.load_strided(base, team_.end(), lane(), kWarp, kBeyond, target);
      if constexpr (kWithDraft) {
        draft_.load_strided(base, team_.end(), lane(), kWarp, kBeyond, draft);
      }
#pragma unroll
      for (int i = 0; i < kLoads; ++i) {
        const int64_t group = base + i * kWarp + lane();
        if (group >= team_.end()) continue;
        keep(kept_.target, group, target[i]);
        if constexpr (kWithDraft) keep(kept_.draft, group, draft[i]);
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
      for (int64_t group = team_.begin() + lane(); group < team_.end(); group += kWarp) {
        float target[kGroup], draft[kGroup] = {};
        kept(kept_.target, group, target);
        if constexpr (kWithDraft) kept(kept_.draft, group, draft);
#pragma unroll
        for (int j = 0; j < kGroup; ++j) {
          target[j] = call_.target.weights(target[j], highest_target_);
          if constexpr (kWithDraft) draft[j] = call_.draft.weights(draft[j], highest_draft_);
        }
        keep(kept_.target, group, target);
        if constexpr (kWithDraft) keep(kept_.draft, group, draft);
        add(target, draft);
      }
    }
    constexpr double kNan = __builtin_nanf("");
    own_draft_ = draft_is_valid ? draft_sum.value() : kNan;
    part_ = {warp_sum(target_is_valid ? target_sum.value() : kNan), warp_sum(own_draft_)};
    gather();
  }

  __device__ void share_highest(float target, float draft) {
    const Masses* brought = team_.gather({warp_max(target), warp_max(draft)});
    float highest_target = -kInfinity, highest_draft = -kInfinity;
    for (int p = lane(); p < team_.num_parts(); p += kWarp) {
      highest_target = max(highest_target, static_cast<float>(brought[p].target));
      highest_draft = max(highest_draft, static_cast<float>(brought[p].draft));
    }
    highest_target_ = warp_max(highest_target);
    highest_draft_ = warp_max(highest_draft);
  }

  // The refused siblings up to `child` weigh again what they weighed; the draft is without them.
  __device__ void restore(int64_t child) {
    for (int64_t s = in_.tree.child(node_); s >= 0; s = s == child ? -1 : in_.tree.sibling(s)) {
      const int64_t id = in_.tokens[s];
      if (id < 0 || id >= call_.vocab || !team_.owns(id)) continue;
      kept_.target[team_.place(id / kGroup) + id % kGroup] = read(id).target;
    }
    __syncwarp();
  }

  // left(i) of a group.
  __device__ void weigh(int64_t group, float (&left)[kGroup]) const {
    kept(kept_.target, group, left);
    if (remainder_.share == 0) return;
    const double share = remainder_.share < 1e38 ? remainder_.share : 1e38;
    const float high = static_cast<float>(share), low = static_cast<float>(share - high);
    float draft[kGroup];
    kept(kept_.draft, group, draft);
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      const float rest = fmaf(-low, draft[j], fmaf(-high, draft[j], left[j]));
      left[j] = rest > 0 ? rest : 0.0f;
    }
  }

  __device__ void weigh_left() {
    GroupSum sum;
    for (int64_t group = team_.begin() + lane(); group < team_.end(); group += kWarp) {
      float left[kGroup];
      weigh(group, left);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) sum.of[j].add(left[j]);
    }
    part_.target = warp_sum(sum.value());
    gather();
  }

  __device__ void gather() {
    brought_ = team_.gather(part_);
    const Masses masses = team_.sum(brought_);
    remainder_.target_mass = masses.target;
    remainder_.draft_mass = masses.draft;
  }

  // What of the draft is left in this lane's groups: summed again, not subtracted from.
  __device__ double lane_draft() const {
    GroupSum sum;
    for (int64_t group = team_.begin() + lane(); group < team_.end(); group += kWarp) {
      float draft[kGroup];
      kept(kept_.draft, group, draft);
#pragma unroll
      for (int j = 0; j < kGroup; ++j) sum.of[j].add(draft[j]);
    }
    return sum.value();
  }

  __device__ void keep(float* row, int64_t group, const float (&weights)[kGroup]) const {
    *reinterpret_cast<float4*>(row + team_.place(group)) =
        make_float4(weights[0], weights[1], weights[2], weights[3]);
  }
  __device__ void kept(const float* row, int64_t group, float (&weights)[kGroup]) const {
    const float4 four = *reinterpret_cast<const float4*>(row + team_.place(group));
    weights[0] = four.x;
    weights[1] = four.y;
    weights[2] = four.z;
    weights[3] = four.w;
  }

  Team& team_;
  const AcceptTreeResidual<Weights>& call_;
  const ResidualInputs& in_;
  Kept kept_;
  int64_t node_;
  VocabularyRow<Element> target_, draft_;
  int64_t first_id_ = -1;
  Element first_target_{}, first_draft_{};
  float highest_target_ = 0, highest_draft_ = 0;
  Remainder remainder_;
  Masses part_;           // of this warp
  double own_draft_ = 0;  // of this lane
  const Masses* brought_ = nullptr;
};

}  // namespace sparrow::cuda
