// Whether the values of a commit are such as no checked call refuses: what the checks in Python
// look for, in one pass on a CPU. They say what is wrong, this says only whether anything is.
#pragma once

#include <algorithm>
#include <vector>

#include "kernels/gather/call.h"

namespace sparrow {

// Links lead to later nodes, roots have depth 0 or are idle.
inline bool links_fit(const TreeBatch& tree, int64_t batch) {
  const auto leads_on = [&](int32_t link, int64_t node) {
    return link == -1 || (link > node && link < tree.num_slots);
  };
  for (int64_t b = 0; b < batch; ++b) {
    if (tree.num_slots > 0 && (tree.depth[b][0] < -1 || tree.depth[b][0] > 0)) return false;
    for (int64_t node = 0; node < tree.num_slots; ++node) {
      if (!leads_on(tree.first_child[b][node], node)) return false;
      if (!leads_on(tree.next_sibling[b][node], node)) return false;
    }
  }
  return true;
}

// A path that is committed increases strictly, below `num_nodes` if that is not negative.
inline bool paths_fit(const CommittedPath& path, int64_t num_nodes) {
  for (int64_t b = 0; b < path.batch; ++b) {
    const int64_t length = path.accept_length[b];
    if (length < -1 || length >= path.max_path) return false;
    int64_t before = -1;
    for (int64_t k = 0; k <= length; ++k) {
      const int64_t node = path.path[b][k];
      if (node <= before || (num_nodes >= 0 && node >= num_nodes)) return false;
      before = node;
    }
  }
  return true;
}

// The slots [begin, end) of a request, of which those from `write` on are written; none if end <=
// 0.
struct Span {
  int64_t begin, end, write;
};

// The request's own slots hold the spans, and its table has a page for each.
inline bool spans_fit(const Pages& pages, const std::vector<Span>& spans) {
  const bool is_paged = pages.table.data != nullptr;
  const int64_t size = pages.block_size;
  int64_t writers = 0;
  std::vector<bool> is_written(is_paged ? pages.num_blocks : 0);
  for (size_t b = 0; b < spans.size(); ++b) {
    const Span& span = spans[b];
    if (span.end <= 0) continue;
    if (span.begin < 0 || span.end > pages.capacity()) return false;
    if (!is_paged) continue;
    for (int64_t p = span.begin / size; p * size < span.end; ++p) {
      const int64_t page = pages.table[static_cast<int64_t>(b)][p];
      if (page < 0 || page >= pages.num_blocks) return false;
      if ((p + 1) * size <= span.write) continue;
      if (is_written[page]) return false;  // by two, or twice by one
      is_written[page] = true;
      ++writers;
    }
  }
  if (writers == 0) return true;
  // A page that is written counts once, as its writer's: held by any other it is counted again.
  for (size_t b = 0; b < spans.size(); ++b) {
    for (int64_t p = 0; p * size < spans[b].end; ++p) {
      const int64_t page = pages.table[static_cast<int64_t>(b)][p];
      if (page >= 0 && page < pages.num_blocks && is_written[page]) --writers;
    }
  }
  return writers == 0;
}

}  // namespace sparrow
