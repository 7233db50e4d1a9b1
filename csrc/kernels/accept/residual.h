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
// Nothing is ever rescaled. Residuals nest: whatever was refused, what is left is, but for scale,
//   left(i) = max(t(i) - share * d(i), 0)      share += mass(left) / mass(d) at a refusal
// with t and d the rows as given, since max(max(a, 0) - b, 0) = max(a - b, 0) for b >= 0. Both
// masses are summed over what remains: 1 - x would lose every digit of a small remainder. A refused
// x has d(x) = 0 from then on, and left(x) stays what its refusal left of it: 0, as
// t(x) <= u * d(x).
#pragma once

#include "kernels/accept/sample.h"
#include "kernels/accept/walk.h"
#include "kernels/common.h"

namespace sparrow {

// A token's weights in the two rows of a node.
struct WeightPair {
  float target, draft;
};

// What is left of a node's target, as scalars beside its rows. A row without valid mass counts as
// all 0.
struct Remainder {
  double share = 0;
  double target_mass = 0;  // of what is left
  double draft_mass = 0;   // of what was not refused

  SPARROW_HD double left(WeightPair of) const {
    if (share == 0) return of.target;
    const double left = of.target - share * of.draft;
    return left > 0 ? left : 0.0;
  }

  // uniform * draft / draft_mass < left / target_mass, without a division: doubles have room for
  // the products of floats with sums of floats.
  SPARROW_HD bool accepts(double uniform, WeightPair of) const {
    if (!is_mass(target_mass)) return false;
    if (!is_mass(draft_mass)) return left(of) > 0;
    return uniform * of.draft * target_mass < left(of) * draft_mass;
  }

  SPARROW_HD double share_after_refusal() const {
    return is_mass(target_mass) && is_mass(draft_mass) ? share + target_mass / draft_mass : share;
  }
};

// Whether a sibling before `child` has its token. Those were all refused, or skipped as repeats.
SPARROW_HD inline bool repeats_refused(const TreeLinks& tree, const int64_t* tokens, int64_t node,
                                       int64_t child) {
  int64_t earlier = tree.child(node);
  while (earlier >= 0 && earlier != child && tokens[earlier] != tokens[child]) {
    earlier = tree.sibling(earlier);
  }
  return earlier >= 0 && earlier != child;
}

// What of a request decides, beside its distributions; tokens and uniform are [T].
struct ResidualInputs {
  TreeLinks tree;
  const int64_t* tokens;
  const float* uniform;
  float bonus_uniform;
  int64_t vocab, max_path;

  // The first of `child` and its later siblings that has to be tried, -1 for none.
  SPARROW_HD int64_t next_trial(int64_t node, int64_t child) const {
    while (child >= 0 && (tokens[child] < 0 || tokens[child] >= vocab ||
                          repeats_refused(tree, tokens, node, child))) {
      child = tree.sibling(child);
    }
    return child;
  }
};

// The child of a node that is tried first, -1 for none.
struct FirstTrial {
  int64_t child;

  SPARROW_HD operator bool() const { return child >= 0; }
};

// Where a walk from the root leaves what it finds: one request's results. Where many threads walk
// as one, one of them `writes`.
struct WalkedPath {
  const int64_t* tokens;
  AcceptanceRows out;
  int32_t* accept_length;
  bool writes;

  SPARROW_HD void enter(int64_t length, int64_t node) const {
    if (writes) out.path[length] = static_cast<int32_t>(node);
  }
  SPARROW_HD bool accept(int64_t length, int64_t child) const {
    if (writes) out.tokens[length] = tokens[child];
    return true;
  }
  SPARROW_HD void end(int64_t length, int64_t bonus) const {
    out.tokens[length] = bonus;
    out.pad_from(length + 1);
    *accept_length = static_cast<int32_t>(length);
  }
  SPARROW_HD void idle() const {
    if (!writes) return;
    out.pad_from(0);
    *accept_length = -1;
  }
};

// Walks down from `node`, the last of `length` + 1 on its path, at most max_path nodes, and tells
// the path what it finds:
//   void enter(length, node)        for every node
//   bool accept(length, child)      whether to go on from there
//   void end(length, bonus)         called by one thread alone
//
// make_node(node, FirstTrial) makes what holds a node's distributions while its children are tried:
//   WeightPair read(id)              of an id not refused so far
//   bool accepts(uniform, pair)
//   void refuse(child, id, pair, meanwhile)     the update above; calls meanwhile() once
//   void bonus(uniform, done)        a draw from the target that is left; who knows it says
//   done(id)
template <typename MakeNode, typename Path>
SPARROW_HD void residual_walk(const ResidualInputs& in, const MakeNode& make_node, Path& path,
                              int64_t node, int64_t length) {
  while (true) {
    path.enter(length, node);
    int64_t child = -1;
    if (length + 1 < in.max_path) child = in.next_trial(node, in.tree.child(node));
    auto here = make_node(node, FirstTrial{child});
    WeightPair pair{};
    if (child >= 0) pair = here.read(in.tokens[child]);
    while (child >= 0 && !here.accepts(in.uniform[child], pair)) {
      int64_t next = -1;
      WeightPair next_pair{};
      here.refuse(child, in.tokens[child], pair, [&] {
        next = in.next_trial(node, in.tree.sibling(child));
        if (next >= 0) next_pair = here.read(in.tokens[next]);
      });
      child = next;
      pair = next_pair;
    }
    if (child < 0) {
      return here.bonus(in.bonus_uniform, [&](int64_t id) { path.end(length, id); });
    }
    if (!path.accept(length, child)) return;
    node = child;
    ++length;
  }
}

}  // namespace sparrow
