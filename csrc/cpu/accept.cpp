#include "cpu/accept.h"

#include "cpu/parallel.h"
#include "kernels/accept/walk.h"

namespace sparrow::cpu {

void accept_tree(const AcceptTree& call) {
  const int64_t work = call.tree.num_slots + call.out.max_path;
  for_each_part(call.batch, work, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      call.out.accept_length[b] =
          accept_walk(call.tree.links(b), call.tokens[b], call.target_tokens[b], call.out.rows(b));
    }
  });
}

}  // namespace sparrow::cpu
