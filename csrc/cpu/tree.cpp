#include "cpu/tree.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "cpu/parallel.h"
#include "kernels/tree/layout.h"
#include "kernels/tree/select.h"

namespace sparrow::cpu {

void build_tree(const BuildTree& call) {
  const int64_t slots = call.num_slots, words = call.num_words;
  for_each_part(call.batch, slots * (words + 4), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const TreeRows tree{call.parent_out + b * slots, call.depth + b * slots,
                          call.ancestors + b * slots * words, call.first_child + b * slots,
                          call.next_sibling + b * slots};
      const int64_t num_nodes = call.num_nodes == nullptr ? slots : call.num_nodes[b];
      call.status[b] = layout_tree(call.parent[b], num_nodes, slots, words, tree);
    }
  });
}

void select_tree(const SelectTree& call) {
  const int64_t chosen = call.num_nodes - 1;
  for_each_part(call.batch, call.pool * 8, [&](int64_t begin, int64_t end) {
    std::vector<float> ranks(call.pool);
    std::vector<int32_t> order(call.pool);
    std::vector<int32_t> tree_node(call.pool);
    for (int64_t b = begin; b < end; ++b) {
      const int32_t* parent = call.parent[b];
      for (int64_t i = 0; i < call.pool; ++i) {
        ranks[i] = pool_rank(call.scores[b], parent, ranks.data(), i);
      }
      std::iota(order.begin(), order.end(), 0);
      std::nth_element(order.begin(), order.begin() + chosen, order.end(),
                       [&](int32_t a, int32_t b) { return outranks(ranks[a], a, ranks[b], b); });
      std::sort(order.begin(), order.begin() + chosen);

      int32_t* selected = call.selected + b * chosen;
      int32_t* tree_parent = call.tree_parent + b * call.num_nodes;
      tree_parent[0] = -1;
      for (int64_t k = 0; k < chosen; ++k) {
        const int32_t node = order[k];
        const int64_t above = pool_parent(parent, node);
        selected[k] = node;
        tree_node[node] = static_cast<int32_t>(k) + 1;
        tree_parent[k + 1] = above < 0 ? 0 : tree_node[above];
      }
    }
  });
}

}  // namespace sparrow::cpu
