// log_softmax and the k best, in one pass over each row of logits.
//
// A row goes by in blocks that stay in L1. Each block is turned into float, its maximum taken, and
// its exponentials added to a sum that is rescaled when the maximum grows (online softmax, Milakov
// and Gimelshein, arXiv:1805.02867). Only a block whose maximum beats the worst of the k best so
// far is searched: for a large vocabulary that is a handful of blocks.
//
// Bytes: R * V * sizeof(Element). Exponentials are float32, their sum is double.
#include "cpu/topk.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/clones.h"
#include "cpu/lanes.h"
#include "cpu/parallel.h"
#include "kernels/element.h"
#include "kernels/exp.h"

namespace sparrow::cpu {
namespace {

constexpr int64_t kBlock = 512;
static_assert(kBlock % kLanes == 0);
constexpr float kNegativeInfinity = -__builtin_huge_valf();

struct Entry {
  float logit;
  int64_t id;
};

// Best first; ties to the lower id.
bool ranks_before(const Entry& a, const Entry& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// One block of logits as float; the last one is filled up with -inf. Returns the maximum.
template <typename Element>
SPARROW_INLINE float load_block(const Element* logits, int64_t count, float* block) {
  for (int64_t i = 0; i < count; ++i) block[i] = to_float(logits[i]);
  for (int64_t i = count; i < kBlock; ++i) block[i] = kNegativeInfinity;
  LaneMaxima maxima;
  for (int64_t i = 0; i < kBlock; i += kLanes) maxima.take(block + i);
  return maxima.highest();
}

SPARROW_INLINE double sum_of_exps(const float* block, float highest) {
  alignas(64) float exps[kBlock];
  for (int64_t i = 0; i < kBlock; ++i) exps[i] = exp_of_nonpositive(block[i] - highest);
  LaneSums sums;
  for (int64_t i = 0; i < kBlock; i += kLanes) sums.add(exps + i);
  return sums.total();
}

bool has_nan(const float* block) {
  return std::any_of(block, block + kBlock, [](float logit) { return logit != logit; });
}

// The k best entries so far, the worst of them on top of a heap.
class Best {
 public:
  explicit Best(int64_t k) : k_(static_cast<size_t>(k)) { entries_.reserve(k_); }

  void clear() { entries_.clear(); }

  bool may_take(float highest) const {
    return entries_.size() < k_ || (k_ > 0 && highest > entries_.front().logit);
  }

  void offer(float logit, int64_t id) {
    // A NaN ranks last; its row's values are NaN all the same.
    const Entry entry{logit == logit ? logit : kNegativeInfinity, id};
    if (entries_.size() == k_) {
      if (k_ == 0 || !ranks_before(entry, entries_.front())) return;
      std::pop_heap(entries_.begin(), entries_.end(), ranks_before);
      entries_.back() = entry;
    } else {
      entries_.push_back(entry);
    }
    std::push_heap(entries_.begin(), entries_.end(), ranks_before);
  }

  const std::vector<Entry>& sorted() {
    std::sort_heap(entries_.begin(), entries_.end(), ranks_before);
    return entries_;
  }

 private:
  size_t k_;
  std::vector<Entry> entries_;
};

// Fills `best` and returns the row's log-sum-exp less its maximum, which goes to `highest`.
template <typename Element>
SPARROW_INLINE double scan_row(const Element* logits, int64_t vocab, Best& best, float& highest) {
  alignas(64) float block[kBlock];
  double sum = 0;
  highest = kNegativeInfinity;
  for (int64_t begin = 0; begin < vocab; begin += kBlock) {
    const int64_t count = std::min(kBlock, vocab - begin);
    const float block_highest = load_block(logits + begin, count, block);
    if (best.may_take(block_highest)) {
      for (int64_t i = 0; i < count; ++i) best.offer(block[i], begin + i);
    }
    if (block_highest == kNegativeInfinity && !has_nan(block)) continue;  // adds exp(-inf) = 0
    if (block_highest > highest) {
      sum *= std::exp(static_cast<double>(highest) - block_highest);
      highest = block_highest;
    }
    sum += sum_of_exps(block, highest);
  }
  return std::log(sum);
}

SPARROW_CLONES double scan(const float* logits, int64_t vocab, Best& best, float& highest) {
  return scan_row(logits, vocab, best, highest);
}
SPARROW_CLONES double scan(const Half* logits, int64_t vocab, Best& best, float& highest) {
  return scan_row(logits, vocab, best, highest);
}
SPARROW_CLONES double scan(const BFloat16* logits, int64_t vocab, Best& best, float& highest) {
  return scan_row(logits, vocab, best, highest);
}

}  // namespace

template <typename Element>
void topk_logprobs(const TopkLogprobs<Element>& call) {
  for_each_part(call.num_rows, call.vocab, [&](int64_t begin, int64_t end) {
    Best best(call.k);
    for (int64_t r = begin; r < end; ++r) {
      best.clear();
      float highest;
      const double log_sum = scan(call.logits[r], call.vocab, best, highest);
      int64_t out = r * call.k;
      for (const Entry& entry : best.sorted()) {
        const double logprob = (static_cast<double>(entry.logit) - highest) - log_sum;
        call.values[out] = static_cast<float>(logprob);
        call.ids[out++] = entry.id;
      }
    }
  });
}

template void topk_logprobs(const TopkLogprobs<float>&);
template void topk_logprobs(const TopkLogprobs<Half>&);
template void topk_logprobs(const TopkLogprobs<BFloat16>&);

}  // namespace sparrow::cpu
