// Work over a range of requests or rows, on torch's own threads when there is enough of it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <numeric>

namespace sparrow::cpu {

// Below this many bytes or elementary steps a thread is not worth waking.
inline constexpr int64_t kWorkPerThread = 1 << 16;

// Runs body(begin, end) over parts of [0, count), each of at least `grain` items.
void run_parallel(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body);

// Threads that it may use.
int64_t num_threads();

// Threads that so much work is worth.
inline int64_t threads_worth(int64_t work) {
  return std::clamp<int64_t>(work / kWorkPerThread, 1, num_threads());
}

// Into how many chunks of its `parts` to cut each of `count` things, so that every thread gets as
// many chunks as the next.
inline int64_t chunks_of_each(int64_t count, int64_t threads, int64_t parts) {
  return std::clamp<int64_t>(threads / std::gcd(std::max<int64_t>(1, count), threads), 1,
                             std::max<int64_t>(1, parts));
}

// item(0), ..., item(count - 1) on so many threads.
template <typename Item>
void run_shared(int64_t count, int64_t threads, const Item& item) {
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t each = begin; each < end; ++each) item(each);
  };
  if (threads <= 1 || count <= 1) return body(0, count);
  run_parallel(count, std::max<int64_t>(1, (count + threads - 1) / threads), body);
}

// run_parallel, where one item costs `work` steps. Small work runs right here: a decode step at
// batch 1 pays for neither threads nor type erasure.
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
