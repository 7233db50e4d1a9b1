// Lends torch's threads to the CPU drivers, which know no torch.
#include "cpu/parallel.h"

#include <torch/csrc/stable/ops.h>

#ifdef __SANITIZE_THREAD__
#include <thread>
#include <vector>
#endif

namespace sparrow::cpu {

#ifdef __SANITIZE_THREAD__
// ThreadSanitizer knows how std::thread begins and ends, and nothing of OpenMP's barriers.
void run_parallel(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  const int64_t most = std::max<int64_t>(1, (count + grain - 1) / grain);
  const int64_t parts = std::min(num_threads(), most);
  const auto begin = [&](int64_t part) { return count * part / parts; };
  std::vector<std::thread> threads;
  for (int64_t part = 1; part < parts; ++part) {
    threads.emplace_back([&, part] { body(begin(part), begin(part + 1)); });
  }
  body(0, begin(1));
  for (std::thread& thread : threads) thread.join();
}
#else
void run_parallel(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  torch::stable::parallel_for(0, count, grain, body);
}
#endif

int64_t num_threads() { return torch::stable::get_num_threads(); }

}  // namespace sparrow::cpu
