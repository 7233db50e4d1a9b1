// Whether what accept_tree_residual may read is what it asks for, in one pass over all rows that a
// walk may come by. What is wrong, where something is, Python says (ops/accept/checks.py).
#include <algorithm>
#include <atomic>
#include <cmath>
#include <type_traits>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/row_parts.h"
#include "cpu/sampling.h"

namespace sparrow::cpu {
namespace {

bool is_link(int64_t link, int64_t node, int64_t size) {
  return link == -1 || (link > node && link < size);
}

bool is_coin(float coin) { return coin >= 0 && coin <= 1; }

template <typename Weights>
bool is_tree_sound(const AcceptTreeResidual<Weights>& call, int64_t b) {
  const TreeLinks tree = call.tree.links(b);
  if (tree.depth[0] < -1 || tree.depth[0] > 0) return false;
  if (tree.depth[0] == 0 && !is_coin(call.bonus_uniform[b])) return false;
  for (int64_t node = 0; node < tree.num_slots; ++node) {
    if (!is_link(tree.first_child[node], node, tree.num_slots)) return false;
    if (!is_link(tree.next_sibling[node], node, tree.num_slots)) return false;
    if (tree.depth[node] <= 0) continue;
    const int64_t token = call.tokens[b][node];
    if (token < 0 || token >= call.vocab || !is_coin(call.uniform[b][node])) return false;
  }
  return true;
}

SPARROW_INLINE bool has_nan(const float* from, int64_t count) {
  EightInts are_nan{};
  const int64_t whole = count - count % 8;
  for (int64_t at = 0; at < whole; at += 8) {
    const EightFloats x = load_eight(from + at);
    are_nan |= x != x;
  }
  bool any = false;
  for (int lane = 0; lane < 8; ++lane) any |= are_nan[lane] != 0;
  for (int64_t i = whole; i < count; ++i) any |= from[i] != from[i];
  return any;
}

// Probabilities: with mass, without NaN and negative ones. Logits: a finite highest, and no NaN.
template <typename Weights>
bool is_row_sound(const typename Weights::Element* row, int64_t vocab) {
  double mass = 0;
  float highest = -__builtin_huge_valf();
  bool any_nan = false;
  at_level([&]() SPARROW_INLINED {
    float room[kPart];
    for (int64_t part = 0; part < num_parts(vocab); ++part) {
      const Part here(part, vocab);
      const float* values = room;
      if constexpr (std::is_same_v<typename Weights::Element, float>) {
        values = row + here.begin;
      } else {
        for (int64_t i = 0; i < here.count; ++i) room[i] = to_float(row[here.begin + i]);
      }
      if constexpr (Weights::kNeedsHighest) {
        highest = std::max(highest, highest_of(values, here.count));
        any_nan |= has_nan(values, here.count);
      } else {
        mass += sum_of(values, here.count);
      }
    }
  });
  return Weights::kNeedsHighest ? std::isfinite(highest) && !any_nan : is_mass(mass);
}

}  // namespace

template <typename Weights>
bool residual_is_sound(const AcceptTreeResidual<Weights>& call) {
  std::vector<const typename Weights::Element*> rows;
  for (int64_t b = 0; b < call.batch; ++b) {
    if (!is_tree_sound(call, b)) return false;
    const TreeLinks tree = call.tree.links(b);
    for (int64_t node = 0; node < tree.num_slots; ++node) {
      if (tree.depth[node] < 0) continue;
      rows.push_back(call.target.row(b, node));
      if (tree.first_child[node] >= 0) rows.push_back(call.draft.row(b, node));
    }
  }
  const int64_t count = static_cast<int64_t>(rows.size());
  std::atomic<bool> are_sound = true;
  run_shared(count, threads_worth(count * call.vocab), [&](int64_t i) {
    if (!is_row_sound<Weights>(rows[i], call.vocab)) are_sound = false;
  });
  return are_sound;
}

template bool residual_is_sound(const AcceptTreeResidual<PlainWeights>&);
template bool residual_is_sound(const AcceptTreeResidual<SoftmaxWeights<float>>&);
template bool residual_is_sound(const AcceptTreeResidual<SoftmaxWeights<Half>>&);
template bool residual_is_sound(const AcceptTreeResidual<SoftmaxWeights<BFloat16>>&);

}  // namespace sparrow::cpu
