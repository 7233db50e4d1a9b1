// Work over a range of requests or rows, on torch's own threads when there is enough of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

namespace sparrow::cpu {

// Below this many bytes or elementary steps a thread is not worth waking.
inline constexpr int64_t kWorkPerThread = 1 << 16;

// Runs body(begin, end) over parts of [0, count), each of at least `grain` items.
void run_parallel(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

// The same, where one item costs `work` steps. Small work runs right here: a decode step at batch 1
// pays for neither threads nor type erasure.
template <typename Body>
void for_each_part(int64_t count, int64_t work, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, kWorkPerThread / std::max<int64_t>(1, work));
  if (count <= grain) {
    if (count > 0) body(0, count);
    return;
  }
  run_parallel(count, grain, body);
}

}  // namespace sparrow::cpu
