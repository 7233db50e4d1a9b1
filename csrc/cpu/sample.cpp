// CPU driver of sample_tokens and sample_logits.
#include <type_traits>
#include <vector>

#include "cpu/parallel.h"
#include "cpu/sample_row.h"
#include "cpu/sampling.h"
#include "cpu/softmax.h"

namespace sparrow::cpu {

template <typename Weights>
void sample_rows(const SampleRows<Weights>& call) {
  for_each_part(call.num_rows, call.vocab, [&](int64_t begin, int64_t end) {
    std::vector<float> softmax;
    for (int64_t r = begin; r < end; ++r) {
      const float* row;
      if constexpr (std::is_same_v<Weights, PlainWeights>) {
        row = call.rows[r];
      } else {
        softmax.resize(call.vocab);
        softmax_weights(call.rows[r], call.vocab, call.weights, softmax.data());
        row = softmax.data();
      }
      const auto weight = [row](int64_t i) { return row[i]; };
      call.ids[r] = sample_row(weight, call.vocab, call.uniform[r]);
    }
  });
}

template void sample_rows(const SampleRows<PlainWeights>&);
template void sample_rows(const SampleRows<SoftmaxWeights<float>>&);
template void sample_rows(const SampleRows<SoftmaxWeights<Half>>&);
template void sample_rows(const SampleRows<SoftmaxWeights<BFloat16>>&);

}  // namespace sparrow::cpu
