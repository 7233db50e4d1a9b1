// CPU driver of sample_tokens and sample_logits: a row's parts are summed, then one of them is
// searched. Rows are shared out over threads and, where they are few, so are the parts of each.
//
// Bytes: those of the rows; the elements of logits twice, the second time from a cache. Weights of
// logits are not kept: those of the part that is searched are computed again.
#include <vector>

#include "cpu/parallel.h"
#include "cpu/row_parts.h"
#include "cpu/sampling.h"

namespace sparrow::cpu {
namespace {

// Of one call, kept from call to call: [R, parts], and [R, chunks] maxima.
struct Memory {
  std::vector<double> sums;
  std::vector<float> highest;
};

}  // namespace

template <typename Weights>
void sample_rows(const SampleRows<Weights>& call) {
  const int64_t vocab = call.vocab, parts = num_parts(vocab);
  const int64_t threads = threads_worth(call.num_rows * vocab);
  const int64_t chunks = chunks_of_each(call.num_rows, threads, parts);
  thread_local Memory memory_of_thread;
  Memory& memory = memory_of_thread;  // others work on it too
  if (static_cast<int64_t>(memory.sums.size()) < call.num_rows * parts) {
    memory.sums.resize(call.num_rows * parts);
  }
  if (static_cast<int64_t>(memory.highest.size()) < call.num_rows * chunks) {
    memory.highest.resize(call.num_rows * chunks);
  }

  const auto find_highest = [&](int64_t r, int64_t c) {
    float highest = -__builtin_huge_valf();
    const Chunk chunk(c, chunks, parts);
    at_level([&]() SPARROW_INLINED {
      for (int64_t part = chunk.first; part < chunk.last; ++part) {
        highest = std::max(highest, highest_of(call.rows[r], Part(part, vocab)));
      }
    });
    memory.highest[r * chunks + c] = highest;
  };
  const auto highest_of_row = [&](int64_t r) {
    if (!Weights::kNeedsHighest) return 0.0f;
    const float* of_chunks = &memory.highest[r * chunks];
    return *std::max_element(of_chunks, of_chunks + chunks);
  };
  const auto sum_up = [&](int64_t r, int64_t c) {
    const float highest = highest_of_row(r);
    const Chunk chunk(c, chunks, parts);
    at_level([&]() SPARROW_INLINED {
      float room[kPart];
      for (int64_t part = chunk.first; part < chunk.last; ++part) {
        const Part here(part, vocab);
        const float* weights = weigh(call.weights, call.rows[r], here, highest, room);
        memory.sums[r * parts + part] = sum_of<!Weights::kNeedsHighest>(weights, here.count);
      }
    });
  };
  const auto draw_id = [&](int64_t r) {
    const float highest = highest_of_row(r);
    const auto widen = [&](Part part, double* to) {
      at_level([&]() SPARROW_INLINED {
        float room[kPart];
        const float* weights = weigh(call.weights, call.rows[r], part, highest, room);
        for (int64_t i = 0; i < part.count; ++i) to[i] = weights[i];
      });
    };
    call.ids[r] = draw(&memory.sums[r * parts], vocab, call.uniform[r], widen);
  };

  if (chunks <= 1) {  // a row stays in its thread's cache
    run_shared(call.num_rows, threads, [&](int64_t r) {
      if (Weights::kNeedsHighest) find_highest(r, 0);
      sum_up(r, 0);
      draw_id(r);
    });
    return;
  }
  const auto share_out = [&](const auto& of_chunk) {
    run_shared(call.num_rows * chunks, threads,
               [&](int64_t item) { of_chunk(item / chunks, item % chunks); });
  };
  if (Weights::kNeedsHighest) share_out(find_highest);
  share_out(sum_up);
  run_shared(call.num_rows, threads, draw_id);
}

template void sample_rows(const SampleRows<PlainWeights>&);
template void sample_rows(const SampleRows<SoftmaxWeights<float>>&);
template void sample_rows(const SampleRows<SoftmaxWeights<Half>>&);
template void sample_rows(const SampleRows<SoftmaxWeights<BFloat16>>&);

}  // namespace sparrow::cpu
