// Which cache rows a commit moves, and how far it advances the committed prefix.
//
//   row prefix_len + path[k] -> row prefix_len + k      k = 0 .. accept_length
//   prefix_len += accept_length + 1
//
// path[k] >= k, so moving in ascending k is safe in place. Values that do not fit are skipped or
// clamped: a row outside the cache is never read or written.
#pragma once

#include "kernels/pages.h"

namespace sparrow {

// One row of a head that changes its slot, in bytes from the first.
struct Move {
  int64_t from;
  int64_t to;
};

// Path rows that a request commits: 0 for an idle one, never more than `max_path`.
SPARROW_HD inline int64_t num_committed(int32_t accept_length, int64_t max_path) {
  return accept_length < 0 ? 0 : clamp(int64_t{accept_length} + 1, 0, max_path);
}

// Whether path entry k moves a row, and if so which. An entry that is in place moves none.
SPARROW_HD inline bool path_move(const CacheRows& rows, int64_t b, int32_t prefix_len, int32_t node,
                                 int64_t k, Move* move) {
  if (node < 0 || node == k) return false;
  move->from = rows.offset(b, int64_t{prefix_len} + node);
  move->to = rows.offset(b, int64_t{prefix_len} + k);
  return move->from >= 0 && move->to >= 0;
}

SPARROW_HD inline int32_t advanced_prefix(int32_t prefix_len, int64_t committed, int64_t capacity) {
  if (committed == 0) return prefix_len;
  const int64_t advanced = prefix_len + committed;
  return static_cast<int32_t>(advanced < capacity ? advanced : capacity);
}

}  // namespace sparrow
