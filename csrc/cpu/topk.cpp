// log_softmax and the k best, in one pass over each row of logits.
//
// A row goes by in parts that stay in the L1: the highest logit of a part, then the sum of its
// exponentials below that one. Parts are joined in their order, so that a value is the same bits on
// any number of threads. Only a part, and in it sixteen ids, whose highest beats the worst
// of the k best so far are searched: for a large vocabulary that is few. Rows are shared out over
// threads and, where they are few, so are the parts of each.
//
// Bytes: R * V * sizeof(Element). Exponentials are float32, their sum is double.
#include "cpu/topk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "cpu/lanes.h"
#include "cpu/levels.h"
#include "cpu/parallel.h"
#include "kernels/element.h"
#include "kernels/exp.h"

namespace sparrow::cpu {
namespace {

constexpr int64_t kPart = 2048;
constexpr int64_t kBlock = 512;  // exponentials between their making and their sum
static_assert(kPart % kBlock == 0 && kBlock % kLanes == 0);
constexpr float kNegativeInfinity = -__builtin_huge_valf();

struct Entry {
  float logit;
  int64_t id;
};

// Best first; ties to the lower id.
bool ranks_before(const Entry& a, const Entry& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

// The k best entries so far, among others that were it for a while: they are sorted out when they
// are as many again, which takes a fifth of the time of a heap at k = 64.
class Best {
 public:
  explicit Best(int64_t k) : k_(static_cast<size_t>(k)), room_(std::max<size_t>(2 * k_, 32)) {}

  bool may_take(float highest) const { return !is_full_ || highest > worst_; }

  SPARROW_INLINE bool may_take_any(const float* sixteen) const {
    return !is_full_ || any_above(sixteen, worst_);
  }

  // Of ids that ascend from call to call: one that ties with the worst comes too late.
  void offer(float logit, int64_t id) {
    // A NaN ranks last; its row's values are NaN all the same.
    if (is_full_ && !(logit > worst_)) return;
    entries_.push_back({logit == logit ? logit : kNegativeInfinity, id});
    if (entries_.size() == room_) sort_out();
  }

  // Leaves the k best, or all there were.
  void sort_out() {
    if (entries_.size() < k_ || entries_.empty()) return;
    const auto worst = entries_.begin() + std::max<size_t>(k_, 1) - 1;
    std::nth_element(entries_.begin(), worst, entries_.end(), ranks_before);
    worst_ = worst->logit;
    is_full_ = true;
    entries_.resize(k_);
  }

  const std::vector<Entry>& entries() const { return entries_; }

 private:
  size_t k_, room_;
  bool is_full_ = false;
  float worst_ = kNegativeInfinity;
  std::vector<Entry> entries_;
};

// Of a part or of a row: sum = that of exp(logit - highest).
struct Mass {
  float highest;
  double sum;
};

// Meanwhile fetches the part that comes next: without, rows from memory take 1.35 times as long.
template <typename Element>
SPARROW_INLINE double sum_of_exps(const float* logits, int64_t count, float highest,
                                  const Element* next) {
  LaneSums sums;
  alignas(64) float exps[kBlock];
  const int64_t whole = count - count % kBlock;
  for (int64_t at = 0; at < whole; at += kBlock) {
    fetch(next + at, kBlock);
    for (int64_t i = 0; i < kBlock; ++i) exps[i] = exp_of_nonpositive(logits[at + i] - highest);
    for (int64_t i = 0; i < kBlock; i += kLanes) sums.add(exps + i);
  }
  const int64_t rest = count - whole;
  for (int64_t i = 0; i < rest; ++i) exps[i] = exp_of_nonpositive(logits[whole + i] - highest);
  for (int64_t i = 0; i < rest; ++i) sums.add_one(i % kLanes, exps[i]);
  return sums.total();
}

// Offers a part's logits to `best`, the first of them being that of id `first`.
template <typename Element>
SPARROW_INLINE Mass scan_part(const Element* part, int64_t count, int64_t first, Best& best) {
  alignas(64) float widened[kPart];
  const float* logits = widened;
  if constexpr (std::is_same_v<Element, float>) {
    logits = part;
  } else {
    for (int64_t i = 0; i < count; ++i) widened[i] = to_float(part[i]);
  }
  const float highest = highest_of(logits, count);
  if (best.may_take(highest)) {
    for (int64_t begin = 0; begin < count; begin += kLanes) {
      const int64_t size = std::min(kLanes, count - begin);
      if (size == kLanes && !best.may_take_any(logits + begin)) continue;
      for (int64_t i = begin; i < begin + size; ++i) best.offer(logits[i], first + i);
    }
  }
  // The sum would be one of exp(-inf - -inf).
  if (highest == kNegativeInfinity) {
    const bool has_nan = std::any_of(logits, logits + count, [](float x) { return x != x; });
    return {highest, has_nan ? std::numeric_limits<double>::quiet_NaN() : 0.0};
  }
  return {highest, sum_of_exps(logits, count, highest, part + kPart)};
}

Mass joined(const Mass* parts, int64_t count) {
  Mass row{kNegativeInfinity, 0};
  for (int64_t p = 0; p < count; ++p) row.highest = std::max(row.highest, parts[p].highest);
  for (int64_t p = 0; p < count; ++p) {
    const bool is_highest =
        parts[p].highest == row.highest || parts[p].highest == kNegativeInfinity;
    const double below = static_cast<double>(parts[p].highest) - row.highest;
    row.sum += is_highest ? parts[p].sum : parts[p].sum * std::exp(below);
  }
  return row;
}

}  // namespace

template <typename Element>
void topk_logprobs(const TopkLogprobs<Element>& call) {
  const int64_t parts = (call.vocab + kPart - 1) / kPart;
  const int64_t threads = threads_worth(call.num_rows * call.vocab);
  const int64_t chunks = chunks_of_each(call.num_rows, threads, parts);
  std::vector<Mass> masses(call.num_rows * parts);
  std::vector<Best> best(call.num_rows * chunks, Best(call.k));

  run_shared(call.num_rows * chunks, threads, [&](int64_t item) {
    const int64_t r = item / chunks, chunk = item % chunks;
    const int64_t first = chunk * parts / chunks, last = (chunk + 1) * parts / chunks;
    Best& best_here = best[item];
    at_level([&]() SPARROW_INLINED {
      for (int64_t part = first; part < last; ++part) {
        const int64_t begin = part * kPart, count = std::min(kPart, call.vocab - begin);
        masses[r * parts + part] = scan_part(call.logits[r] + begin, count, begin, best_here);
      }
    });
    best_here.sort_out();
  });
  run_shared(call.num_rows, threads, [&](int64_t r) {
    const Mass row = joined(masses.data() + r * parts, parts);
    const double log_sum = std::log(row.sum);
    std::vector<Entry> entries;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const std::vector<Entry>& of_chunk = best[r * chunks + chunk].entries();
      entries.insert(entries.end(), of_chunk.begin(), of_chunk.end());
    }
    std::sort(entries.begin(), entries.end(), ranks_before);
    int64_t out = r * call.k;
    for (int64_t i = 0; i < call.k; ++i) {
      const Entry& entry = entries[i];
      const double logprob = (static_cast<double>(entry.logit) - row.highest) - log_sum;
      call.values[out] = static_cast<float>(logprob);
      call.ids[out++] = entry.id;
    }
  });
}

template void topk_logprobs(const TopkLogprobs<float>&);
template void topk_logprobs(const TopkLogprobs<Half>&);
template void topk_logprobs(const TopkLogprobs<BFloat16>&);

}  // namespace sparrow::cpu
