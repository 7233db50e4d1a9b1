// One node of a residual walk, kept by a team of threads: see residual.cu.
#pragma once

#include "cuda/row.h"
#include "cuda/team.h"
#include "kernels/accept/residual.h"
#include "kernels/accept/sampling_call.h"

namespace sparrow::cuda {

// A turn of a warp over its part: what each lane works on at once, so that a turn needs no bounds.
inline constexpr int kTurn = 5;  // groups a lane
inline constexpr int kTurnGroups = kTurn * kWarp;

// The kept weights of one warp's part of both rows: `groups` of each, whole turns, 0 behind the
// part.
struct Kept {
  float* target;
  float* draft;
  int groups;
};

// The distributions of one node while its children are tried, as residual_walk wants them.
template <typename Weights>
class KeptNode {
 public:
  using Element = typename Weights::Element;
  static constexpr int kInFlight = 2 * kTurn;  // groups a lane and row whose loads fly together

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
    load(first);
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
    if (team_.owns(id)) {
      const int place = static_cast<int>(id) - team_.begin() * kGroup;
      own_.target[place] = static_cast<float>(remainder_.left(pair));
      own_.draft[place] = 0;
    }
    __syncwarp();
    weigh_left(id, meanwhile);
    if (is_mass(remainder_.target_mass)) return;
    restore(child);
    remainder_.share = 0;
    weigh_left(kNoToken, [] {});
  }

  template <typename Done>
  __device__ void bonus(double uniform, const Done& done) const {
    const double mass = remainder_.target_mass;
    int64_t token = kNoToken;
    bool knows = team_.writes();
    if (is_mass(mass)) {
      const DrawnPart drawn = team_.draw(uniform, mass);
      if (drawn.part < 0) return;
      token = draw_id(team_.begin(), team_.end(), drawn, [&](int64_t group, float (&left)[kGroup]) {
        weigh(static_cast<int>(group - team_.begin()), left);
      });
      knows = lane() == 0;
    }
    if (knows) done(token);
  }

 private:
  // Brings this warp's part of the rows in, as weights, and their masses. Without the draft all is
  // done but its loads, by the instructions that are there already: its mass means nothing then.
  __device__ void load(bool with_draft) {
    constexpr float kBeyond = Weights::kNeedsHighest ? -kInfinity : 0.0f;
    RoundedSum target_sum, draft_sum;
    bool target_is_valid = true, draft_is_valid = true;
    const auto add = [&](const auto& target, const auto& draft) {
      target_sum.add(target);
      draft_sum.add(draft);
      target_is_valid &= is_valid(target);
      draft_is_valid &= is_valid(draft);
    };
    float highest_target = -kInfinity, highest_draft = -kInfinity;
    const int64_t draft_end = with_draft ? team_.end() : team_.begin();
    for (int base = 0; base < own_.groups; base += kInFlight * kWarp) {
      float target[kInFlight][kGroup], draft[kInFlight][kGroup];
      const int64_t first = team_.begin() + base;
      target_.load_strided(first, team_.end(), lane(), kWarp, kBeyond, target);
      draft_.load_strided(first, draft_end, lane(), kWarp, kBeyond, draft);
#pragma unroll
      for (int i = 0; i < kInFlight; ++i) {
        const int group = base + i * kWarp;
        if (group >= own_.groups) continue;
        keep(own_.target, group + lane(), target[i]);
        keep(own_.draft, group + lane(), draft[i]);
      }
      if constexpr (!Weights::kNeedsHighest) {
        add(target, draft);
      } else {
#pragma unroll
        for (int i = 0; i < kInFlight; ++i) {
#pragma unroll
          for (int j = 0; j < kGroup; ++j) {
            highest_target = max(highest_target, target[i][j]);
            highest_draft = max(highest_draft, draft[i][j]);
          }
        }
      }
    }
    if constexpr (Weights::kNeedsHighest) {
      share_highest(highest_target, highest_draft);
      in_turns([&](int first, auto& target, auto& draft) {
        weigh_logits(call_.target.weights, highest_target_, own_.target + first * kGroup, target);
        if (with_draft) {
          weigh_logits(call_.draft.weights, highest_draft_, own_.draft + first * kGroup, draft);
        }
        add(target, draft);
      });
    }
    constexpr double kNan = __builtin_nanf("");
    own_draft_ = draft_is_valid ? draft_sum.value() : kNan;
    part_ = {warp_sum(target_is_valid ? target_sum.value() : kNan), warp_sum(own_draft_)};
    add_up([] {});
  }

  template <int kCount>
  __device__ static bool is_valid(const float (&weights)[kCount][kGroup]) {
    bool all = true;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) all &= weights[i][j] >= 0;
    }
    return all;
  }

  // The logits of a turn, kept from `row` on, become weights; those behind a part are -inf.
  __device__ static void weigh_logits(const Weights& weights, float highest, float* row,
                                      float (&turn)[kTurn][kGroup]) {
#pragma unroll
    for (int i = 0; i < kTurn; ++i) {
#pragma unroll
      for (int j = 0; j < kGroup; ++j) turn[i][j] = weights(turn[i][j], highest);
      keep(row, i * kWarp, turn[i]);
    }
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
      own_.target[static_cast<int>(id) - team_.begin() * kGroup] = read(id).target;
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

  // left(i) of a group, from its weights.
  __device__ static void subtract(Halves share, const float (&draft)[kGroup],
                                  float (&target)[kGroup]) {
#pragma unroll
    for (int j = 0; j < kGroup; ++j) {
      const float rest = fmaf(-share.low, draft[j], fmaf(-share.high, draft[j], target[j]));
      target[j] = rest > 0 ? rest : 0.0f;
    }
  }

  // The same of one of this warp's groups.
  __device__ void weigh(int group, float (&left)[kGroup]) const {
    const Halves share = halves_of_share();
    kept(own_.target, group, left);
    if (share.high == 0) return;
    float draft[kGroup];
    kept(own_.draft, group, draft);
    subtract(share, draft, left);
  }

  // This lane's groups of each turn: body(first group, target, draft).
  template <typename Body>
  __device__ void in_turns(const Body& body) const {
    for (int first = lane(); first < own_.groups; first += kTurnGroups) {
      float target[kTurn][kGroup], draft[kTurn][kGroup];
#pragma unroll
      for (int i = 0; i < kTurn; ++i) {
        kept(own_.target, first + i * kWarp, target[i]);
        kept(own_.draft, first + i * kWarp, draft[i]);
      }
      body(first, target, draft);
    }
  }

  // The mass of what is left; that of the draft changes where `lost`, an id or kNoToken, was. It is
  // summed again, not subtracted from.
  template <typename Meanwhile>
  __device__ void weigh_left(int64_t lost, const Meanwhile& meanwhile) {
    const Halves share = halves_of_share();
    const bool is_lighter = lost != kNoToken && team_.holds(lost);
    RoundedSum left_sum, draft_sum;
    in_turns([&](int, auto& left, auto& draft) {
      if (share.high != 0) {
#pragma unroll
        for (int i = 0; i < kTurn; ++i) subtract(share, draft[i], left[i]);
      }
      left_sum.add(left);
      if (is_lighter) draft_sum.add(draft);
    });
    part_.target = warp_sum(left_sum.value());
    if (is_lighter) {
      if (team_.owns(lost)) own_draft_ = draft_sum.value();
      part_.draft = warp_sum(own_draft_);
    }
    add_up(meanwhile);
  }

  template <typename Meanwhile>
  __device__ void add_up(const Meanwhile& meanwhile) {
    const Masses masses = team_.sum(part_, meanwhile);
    remainder_.target_mass = masses.target;
    remainder_.draft_mass = masses.draft;
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
