// CPU driver of accept_tree_residual: one pair of working rows a thread, whatever B and T are.
#include "kernels/accept/residual.h"

#include <algorithm>
#include <vector>

#include "cpu/accept.h"
#include "cpu/clones.h"
#include "cpu/parallel.h"

namespace sparrow::cpu {
namespace {

constexpr int64_t kLanes = 8;

double total(const double* lanes) {
  double sum = 0;
  for (int64_t lane = 0; lane < kLanes; ++lane) sum += lanes[lane];
  return sum;
}

// The mass of a row, 0 where one of its weights is none.
SPARROW_CLONES double mass_of(const float* row, int64_t size) {
  double lanes[kLanes] = {};
  bool is_valid = true;
  const int64_t whole = size - size % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      is_valid &= row[i + lane] >= 0;
      lanes[lane] += row[i + lane];
    }
  }
  for (int64_t i = whole; i < size; ++i) {
    is_valid &= row[i] >= 0;
    lanes[i - whole] += row[i];
  }
  return is_valid ? total(lanes) : 0.0;
}

// left[i] = max(target[i] * target_scale - draft[i] * draft_scale, 0); returns its mass.
template <typename Weight>
SPARROW_INLINE double reduce_row(const Weight* target, double target_scale, const float* draft,
                                 double draft_scale, int64_t size, double* left) {
  double lanes[kLanes] = {};
  const int64_t whole = size - size % kLanes;
  for (int64_t i = 0; i < whole; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      left[i + lane] = residual(target[i + lane] * target_scale, draft[i + lane] * draft_scale);
      lanes[lane] += left[i + lane];
    }
  }
  for (int64_t i = whole; i < size; ++i) {
    left[i] = residual(target[i] * target_scale, draft[i] * draft_scale);
    lanes[i - whole] += left[i];
  }
  return total(lanes);
}

SPARROW_CLONES double reduce(const float* target, double target_scale, const float* draft,
                             double draft_scale, int64_t size, double* left) {
  return reduce_row(target, target_scale, draft, draft_scale, size, left);
}
SPARROW_CLONES double reduce(const double* target, double target_scale, const float* draft,
                             double draft_scale, int64_t size, double* left) {
  return reduce_row(target, target_scale, draft, draft_scale, size, left);
}

// [V] each; filled at a node's first refusal.
struct WorkingRows {
  std::vector<double> target;
  std::vector<float> draft;
};

// The target and draft of one node while its children are tried. Rows that need no change are read
// where they are; a node without children costs no sum at all.
class ResidualNode {
 public:
  ResidualNode(const float* target, const float* draft, int64_t vocab, WorkingRows& rows)
      : target_(target), draft_(draft), vocab_(vocab), rows_(rows) {}

  double target_prob(int64_t id) {
    weigh();
    return (is_reduced_ ? rows_.target[id] : target_[id]) * scale_of(target_mass_);
  }

  double draft_prob(int64_t id) {
    weigh();
    return (is_reduced_ ? rows_.draft[id] : draft_[id]) * scale_of(draft_mass_);
  }

  void refuse(int64_t id) {
    weigh();
    const double target_scale = scale_of(target_mass_), draft_scale = scale_of(draft_mass_);
    rows_.target.resize(vocab_);
    double* left = rows_.target.data();
    if (!is_reduced_) {
      rows_.draft.assign(draft_, draft_ + vocab_);
      target_mass_ = reduce(target_, target_scale, draft_, draft_scale, vocab_, left);
    } else {
      target_mass_ = reduce(left, target_scale, rows_.draft.data(), draft_scale, vocab_, left);
    }
    is_reduced_ = true;
    if (!is_mass(target_mass_)) {
      std::copy(target_, target_ + vocab_, left);
      target_mass_ = mass_of(target_, vocab_);
    }
    rows_.draft[id] = 0;
    draft_mass_ = mass_of(rows_.draft.data(), vocab_);
  }

  int64_t bonus(double uniform) const {
    return is_reduced_ ? sample_row(rows_.target.data(), vocab_, uniform)
                       : sample_row(target_, vocab_, uniform);
  }

 private:
  void weigh() {
    if (is_weighed_) return;
    target_mass_ = mass_of(target_, vocab_);
    draft_mass_ = mass_of(draft_, vocab_);
    is_weighed_ = true;
  }

  const float* target_;
  const float* draft_;
  int64_t vocab_;
  WorkingRows& rows_;
  double target_mass_ = 0;
  double draft_mass_ = 0;
  bool is_weighed_ = false;
  bool is_reduced_ = false;
};

}  // namespace

void accept_tree_residual(const AcceptTreeResidual& call) {
  const int64_t length = call.out.max_path;
  for_each_part(call.batch, call.vocab * length, [&](int64_t begin, int64_t end) {
    WorkingRows rows;
    const auto make_node = [&](const float* target, const float* draft) {
      return ResidualNode(target, draft, call.vocab, rows);
    };
    for (int64_t b = begin; b < end; ++b) {
      const TreeLinks tree{call.tree.depth[b], call.tree.first_child[b], call.tree.next_sibling[b],
                           call.tree.num_slots};
      const ResidualInputs in{
          .tokens = call.tokens[b],
          .target_probs = {call.target_probs.data + b * call.target_batch_stride,
                           call.target_probs.stride},
          .draft_probs = {call.draft_probs.data + b * call.draft_batch_stride,
                          call.draft_probs.stride},
          .uniform = call.uniform[b],
          .bonus_uniform = call.bonus_uniform[b],
          .vocab = call.vocab};
      const AcceptanceRows out{call.out.path + b * length, call.out.emitted + b * length, length};
      call.out.accept_length[b] = residual_walk(tree, in, make_node, out);
    }
  });
}

}  // namespace sparrow::cpu
