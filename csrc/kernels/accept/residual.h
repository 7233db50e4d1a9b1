// Recursive rejection sampling over a tree whose children were drawn from the draft.
//
// At a node, with target t and draft d both of mass 1, its children are tried in node order:
//   child with token x is accepted iff u * d(x) < t(x), that is with probability min(1, t(x)/d(x));
//   refused, what is left to explain is t <- max(t - d, 0) / mass, and x is known not to come
//   again: d(x) <- 0, d <- d / mass. A child that repeats a refused token says nothing new and is
//   skipped. If every child is refused, the bonus is drawn from the t that is left.
// Why this is exact: one trial emits x with probability min(t(x), d(x)) and refuses with the mass
// of max(t - d, 0), from which the rest is then emitted; so x comes out with t(x) in all. Given the
// refused tokens, the next token that is not one of them is a draw from d without them, whether the
// children were drawn with or without replacement.
// (Leviathan et al., arXiv:2211.17192, for one child; Jeon et al., arXiv:2402.14160, and Yang et
// al., arXiv:2401.06706, for several without replacement.)
//
// t and d are kept unscaled beside their masses, which are always summed over what remains: 1 - x
// would lose every digit of a small remainder. The inputs need not sum to 1.
#pragma once

#include "kernels/accept/sample.h"
#include "kernels/accept/walk.h"
#include "kernels/common.h"

namespace sparrow {

SPARROW_HD inline bool is_mass(double mass) { return mass > 0 && mass < __builtin_huge_val(); }

// What turns a row's weights into probabilities; without valid mass every probability is 0.
SPARROW_HD inline double scale_of(double mass) { return is_mass(mass) ? 1.0 / mass : 0.0; }

SPARROW_HD inline bool accepts(double uniform, double draft_prob, double target_prob) {
  return uniform * draft_prob < target_prob;
}

SPARROW_HD inline double residual(double target_prob, double draft_prob) {
  return target_prob > draft_prob ? target_prob - draft_prob : 0.0;
}

// Whether a sibling before `child` has its token. Those were all refused, or skipped as repeats.
SPARROW_HD inline bool repeats_refused(const TreeLinks& tree, const int64_t* tokens, int64_t node,
                                       int64_t child) {
  int64_t earlier = tree.child(node);
  while (earlier >= 0 && earlier != child && tokens[earlier] != tokens[child]) {
    earlier = tree.sibling(earlier);
  }
  return earlier >= 0 && earlier != child;
}

// One request's inputs: tokens and uniform are [T], the distributions [T, V] by rows.
struct ResidualInputs {
  const int64_t* tokens;
  Rows<const float> target_probs;
  Rows<const float> draft_probs;
  const float* uniform;
  float bonus_uniform;
  int64_t vocab;
};

// Fills one request's path and emitted tokens, max_path >= 1, and returns its accept_length.
//
// make_node(target_row, draft_row) makes what holds the two distributions of one node while its
// children are tried:
//   double target_prob(id), draft_prob(id)
//   void refuse(id)          the update above
//   int64_t bonus(uniform)   a draw from the target that is left
template <typename MakeNode>
SPARROW_HD int32_t residual_walk(const TreeLinks& tree, const ResidualInputs& in,
                                 const MakeNode& make_node, const AcceptanceRows& out) {
  if (tree.is_idle()) {
    out.pad_from(0);
    return -1;
  }
  int64_t node = 0;
  int64_t length = 0;
  while (true) {
    out.path[length] = static_cast<int32_t>(node);
    auto here = make_node(in.target_probs[node], in.draft_probs[node]);
    int64_t child = length + 1 == out.max_path ? -1 : tree.child(node);
    for (; child >= 0; child = tree.sibling(child)) {
      const int64_t token = in.tokens[child];
      if (token < 0 || token >= in.vocab) continue;
      if (repeats_refused(tree, in.tokens, node, child)) continue;
      if (accepts(in.uniform[child], here.draft_prob(token), here.target_prob(token))) break;
      here.refuse(token);
    }
    if (child < 0) {
      out.tokens[length] = here.bonus(in.bonus_uniform);
      break;
    }
    out.tokens[length] = in.tokens[child];
    node = child;
    ++length;
  }
  out.pad_from(length + 1);
  return static_cast<int32_t>(length);
}

}  // namespace sparrow
