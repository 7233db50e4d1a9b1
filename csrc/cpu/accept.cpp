#include "cpu/accept.h"

#include "cpu/parallel.h"
#include "kernels/accept/sample.h"
#include "kernels/accept/walk.h"

namespace sparrow::cpu {

void accept_tree(const AcceptTree& call) {
  const int64_t length = call.out.max_path;
  for_each_part(call.batch, call.tree.num_slots + length, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const TreeLinks tree{call.tree.depth[b], call.tree.first_child[b], call.tree.next_sibling[b],
                           call.tree.num_slots};
      const AcceptanceRows out{call.out.path + b * length, call.out.emitted + b * length, length};
      call.out.accept_length[b] = accept_walk(tree, call.tokens[b], call.target_tokens[b], out);
    }
  });
}

void sample_tokens(const SampleTokens& call) {
  for_each_part(call.num_rows, call.vocab, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      call.ids[r] = sample_row(call.probs[r], call.vocab, call.uniform[r]);
    }
  });
}

}  // namespace sparrow::cpu
