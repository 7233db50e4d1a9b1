// Lends torch's threads to the CPU drivers, which know no torch.
#include "cpu/parallel.h"

#include <torch/csrc/stable/ops.h>

namespace sparrow::cpu {

void run_parallel(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  torch::stable::parallel_for(0, count, grain, body);
}

int64_t num_threads() { return torch::stable::get_num_threads(); }

}  // namespace sparrow::cpu
