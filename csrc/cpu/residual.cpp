// CPU driver of accept_tree_residual and its logits form: one pair of working rows a thread,
// whatever B and T are.
#include "kernels/accept/residual.h"

#include <type_traits>
#include <vector>

#include "cpu/clones.h"
#include "cpu/lanes.h"
#include "cpu/parallel.h"
#include "cpu/sample_row.h"
#include "cpu/sampling.h"
#include "cpu/softmax.h"

namespace sparrow::cpu {
namespace {

constexpr int64_t kLanesLeft = 8;

// The mass of max(target - share * draft, 0).
SPARROW_CLONES double mass_left(const float* target, const float* draft, double share,
                                int64_t size) {
  if (share == 0) return mass_of(target, size);
  LaneSums sums;
  const int64_t whole = size - size % kLanesLeft;
  for (int64_t begin = 0; begin < whole; begin += kLanesLeft) {
    for (int i = 0; i < 2; ++i) {
      const int64_t at = begin + 4 * i;
      const FourDoubles left = widen_four(target + at) - share * widen_four(draft + at);
      sums.add_four(i, left > 0.0 ? left : FourDoubles{});
    }
  }
  for (int64_t i = whole; i < size; ++i) {
    const double left = target[i] - share * draft[i];
    sums.add_one(i - whole, left > 0 ? left : 0.0);
  }
  return sums.total();
}

// [V] each: the weights of one node, where they are not read straight from the inputs.
struct WorkingRows {
  std::vector<float> target, draft;
};

// The distributions of one node while its children are tried. Weights that need no change are read
// where they are; a node without children to try costs no sum but the bonus's own.
template <typename Weights>
class ResidualNode {
 public:
  ResidualNode(const AcceptTreeResidual<Weights>& call, int64_t b, int64_t node, bool has_trials,
               WorkingRows& rows)
      : call_(call), b_(b), node_(node), rows_(rows) {
    target_ = weights(call.target, rows.target);
    if (!has_trials) return;
    draft_ = weights(call.draft, rows.draft);
    remainder_.target_mass = mass_of(target_, call.vocab);
    remainder_.draft_mass = mass_of(draft_, call.vocab);
  }

  WeightPair read(int64_t id) const { return {target_[id], draft_[id]}; }

  bool accepts(double uniform, WeightPair pair) const { return remainder_.accepts(uniform, pair); }

  void refuse(int64_t, int64_t id, WeightPair pair) {
    if (!is_mass(remainder_.target_mass)) return;  // accepts nothing, and never will
    own(target_, rows_.target);
    own(draft_, rows_.draft);
    remainder_.share = remainder_.share_after_refusal();
    rows_.target[id] = static_cast<float>(remainder_.left(pair));
    rows_.draft[id] = 0;
    remainder_.target_mass = mass_left(target_, draft_, remainder_.share, call_.vocab);
    remainder_.draft_mass = mass_of(draft_, call_.vocab);
    if (is_mass(remainder_.target_mass)) return;
    // Nothing remains: the node's original target again.
    target_ = weights(call_.target, rows_.target);
    remainder_.share = 0;
    remainder_.target_mass = mass_of(target_, call_.vocab);
  }

  void bonus(double uniform, int64_t* id) const {
    // Nothing refused: the draft was perhaps never read.
    const auto target = [this](int64_t i) -> double { return target_[i]; };
    const auto left = [this](int64_t i) { return remainder_.left(read(i)); };
    *id = remainder_.share > 0 ? sample_row(left, call_.vocab, uniform)
                               : sample_row(target, call_.vocab, uniform);
  }

 private:
  const float* weights(const NodeRows<Weights>& of, std::vector<float>& working) const {
    const auto* row = of.row(b_, node_);
    if constexpr (std::is_same_v<Weights, PlainWeights>) {
      return row;
    } else {
      working.resize(call_.vocab);
      softmax_weights(row, call_.vocab, of.weights, working.data());
      return working.data();
    }
  }

  void own(const float*& row, std::vector<float>& working) const {
    if (row == working.data()) return;
    working.assign(row, row + call_.vocab);
    row = working.data();
  }

  const AcceptTreeResidual<Weights>& call_;
  int64_t b_, node_;
  WorkingRows& rows_;
  const float* target_ = nullptr;
  const float* draft_ = nullptr;
  Remainder remainder_;
};

}  // namespace

template <typename Weights>
void accept_tree_residual(const AcceptTreeResidual<Weights>& call) {
  for_each_part(call.batch, call.vocab * call.out.max_path, [&](int64_t begin, int64_t end) {
    WorkingRows rows;
    for (int64_t b = begin; b < end; ++b) {
      const ResidualInputs in{.tree = call.tree.links(b),
                              .tokens = call.tokens[b],
                              .uniform = call.uniform[b],
                              .bonus_uniform = call.bonus_uniform[b],
                              .vocab = call.vocab};
      const auto make_node = [&](int64_t node, bool has_trials) {
        return ResidualNode<Weights>(call, b, node, has_trials, rows);
      };
      call.out.accept_length[b] = residual_walk(in, make_node, call.out.rows(b), true);
    }
  });
}

template void accept_tree_residual(const AcceptTreeResidual<PlainWeights>&);
template void accept_tree_residual(const AcceptTreeResidual<SoftmaxWeights<float>>&);
template void accept_tree_residual(const AcceptTreeResidual<SoftmaxWeights<Half>>&);
template void accept_tree_residual(const AcceptTreeResidual<SoftmaxWeights<BFloat16>>&);

}  // namespace sparrow::cpu
