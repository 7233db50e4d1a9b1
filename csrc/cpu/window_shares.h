// How whole-sequence attention is cut into units, and shared out over threads.
//
// Units depend on the shape alone, and each writes what is its own: the same bits on any number of
// threads, whichever takes which.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "cpu/attention_tile.h"
#include "cpu/parallel.h"
#include "cpu/window_seen.h"

namespace sparrow::cpu {

inline constexpr int64_t kRowsOfBlock = 96;  // query heads times positions, about

// Positions of a block: its rows are those of the G heads of a KV head.
inline int64_t positions_of_block(const WindowShape& shape) {
  return std::max<int64_t>(1, kRowsOfBlock / std::max<int64_t>(1, shape.heads / shape.kv_heads));
}

inline int64_t num_blocks(const WindowShape& shape) {
  const int64_t positions = positions_of_block(shape);
  return (shape.num_rows + positions - 1) / positions;
}

inline Block block_of(const WindowShape& shape, int64_t b, int64_t number) {
  const int64_t positions = positions_of_block(shape);
  const int64_t begin = number * positions;
  const int64_t before = shape.length - shape.num_rows;
  return {b, before + begin, before + std::min(begin + positions, shape.num_rows)};
}

// Head dims up to whole panels.
inline int64_t width_of(const WindowShape& shape) {
  return (shape.head_dim + kPanel - 1) / kPanel * kPanel;
}

// unit(worker, n) for n = count - 1, ..., 0: the last see most, and go first. A worker at a time
// has a number below num_workers.
template <typename Unit>
void run_in_turn(int64_t count, int64_t num_workers, const Unit& unit) {
  std::atomic<int64_t> left{count};
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker) {
      for (int64_t n = left.fetch_sub(1); n > 0; n = left.fetch_sub(1)) unit(worker, n - 1);
    }
  };
  if (num_workers <= 1) return body(0, 1);
  run_parallel(num_workers, 1, body);
}

// Workers for so many units, one where there is little to do. At most so many pairs of a row and a
// slot are seen.
inline int64_t workers_for(const WindowShape& shape, const WindowSeen& seen, int64_t units) {
  constexpr int64_t kStepsWorthThreads = 750'000;  // multiply-adds: some 50 us
  int64_t slots = 0;
  for (int64_t b = 0; b < shape.batch; ++b) {
    slots += std::min(shape.window, shape.length) + seen.rank(b)[shape.length];
  }
  const int64_t steps = slots * shape.heads * shape.num_rows * shape.head_dim;
  return steps < kStepsWorthThreads ? 1 : std::min(num_threads(), units);
}

}  // namespace sparrow::cpu
