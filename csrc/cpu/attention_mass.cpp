// The weight that each committed slot receives from the rows of its KV head's group.
//
//   mass[s] = sum over rows of e^(q k_s * scale - lse[row])
//
// A unit is a span of slots of one request and KV head, whole: rows are added up in their order,
// whatever the number of threads. Bytes: Hkv * D a slot, once for each kMostRows rows; what is kept
// is a tile of keys and scores.
#include "cpu/attention_mass.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/attention_cache.h"
#include "cpu/attention_tile.h"
#include "cpu/levels.h"
#include "cpu/parallel.h"

namespace sparrow::cpu {
namespace {

constexpr int64_t kMostRows = 240;
constexpr int64_t kSlotsOfUnit = 1024;
constexpr int64_t kStepsWorthThreads = 750'000;  // multiply-adds, as of tree attention

// Slots [first, last) of a request and KV head, all committed.
struct Span {
  int64_t b, kv_head, first, last;
};

float* scratch(int64_t floats) {
  thread_local std::vector<float> memory;
  if (static_cast<int64_t>(memory.size()) < floats) memory.resize(floats);
  return memory.data();
}

// Adds the weights of `rows` scores [rows, kTile] to lanes of `mass`.
template <typename V>
SPARROW_INLINE void add_weights(const float* scores, const float* lse, int64_t rows, float scale,
                                int64_t lanes, float* mass) {
  for (int64_t lane = 0; lane < lanes; lane += V::kLanes) {
    typename V::Floats sum = {};
    for (int64_t row = 0; row < rows; ++row) {
      const typename V::Floats s = V::load(scores + row * kTile + lane);
      sum += V::exp_of_nonpositive(s * scale - lse[row]);
    }
    float sums[V::kLanes];
    V::store(sum, sums);
    for (int i = 0; i < V::kLanes && lane + i < lanes; ++i) mass[lane + i] += sums[i];
  }
}

template <typename V, typename Element>
SPARROW_INLINE void weigh_span(const AttentionMass<Element>& call, const Span& span) {
  const int64_t head_dim = call.head_dim, group = call.heads / call.kv_heads;
  const int64_t all_rows = group * call.num_rows;
  const int64_t passes = (all_rows + kMostRows - 1) / kMostRows;
  float* query = scratch((kMostRows + kTile + 1) * head_dim + kMostRows * (kTile + 1));
  float* turned = query + kMostRows * head_dim;
  float* zeros = turned + kTile * head_dim;
  float* scores = zeros + head_dim;
  float* lse = scores + kMostRows * kTile;
  std::fill_n(zeros, head_dim, 0.0f);
  float* mass = call.mass + (span.b * call.kv_heads + span.kv_head) * call.capacity;
  SlotWalk walk(call.block_table, span.b);
  const Element* keys[kTile];
  for (int64_t pass = 0; pass < passes; ++pass) {
    const int64_t begin = pass * all_rows / passes;
    const int64_t rows = (pass + 1) * all_rows / passes - begin;
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t head = span.kv_head * group + (begin + row) / call.num_rows;
      const int64_t node = (begin + row) % call.num_rows;
      const Element* from = call.query.row(span.b, head, node);
      for (int64_t d = 0; d < head_dim; ++d) query[row * head_dim + d] = to_float(from[d]);
      // A row that sees nothing gives nothing: e^-inf.
      const float of_row = *call.lse.row(span.b, head, node);
      lse[row] = of_row == -HUGE_VALF ? HUGE_VALF : of_row;
    }
    for (int64_t first = span.first; first < span.last; first += kTile) {
      const int64_t lanes = std::min(kTile, span.last - first);
      const int64_t whole = (lanes + kPanel - 1) / kPanel * kPanel;
      for (int64_t lane = 0; lane < whole; ++lane) {
        keys[lane] = reinterpret_cast<const Element*>(zeros);
        if (lane >= lanes) continue;
        walk.go_to(first + lane);
        keys[lane] = walk.row(call.key, span.kv_head);
      }
      turn_keys<V>(keys, whole, head_dim, turned);
      scores_of<V>({query, head_dim, head_dim, whole / kPanel, scores, kTile, nullptr, rows},
                   {turned, head_dim});
      add_weights<V>(scores, lse, rows, call.scale, lanes, mass + first);
    }
  }
}

// The same for each vector unit.
template <typename Element>
void weigh_baseline(const AttentionMass<Element>& call, const Span& span) {
  weigh_span<Vector<4>>(call, span);
}
#if defined(SPARROW_HAS_LEVELS)
template <typename Element>
SPARROW_AVX2 void weigh_avx2(const AttentionMass<Element>& call, const Span& span) {
  weigh_span<Vector<8>>(call, span);
}
template <typename Element>
SPARROW_AVX512 void weigh_avx512(const AttentionMass<Element>& call, const Span& span) {
  weigh_span<Vector<16>>(call, span);
}
#endif

template <typename Element>
auto weigh_here() {
#if defined(SPARROW_HAS_LEVELS)
  if (level() == Level::kAvx512) return &weigh_avx512<Element>;
  if (level() == Level::kAvx2) return &weigh_avx2<Element>;
#endif
  return &weigh_baseline<Element>;
}

}  // namespace

template <typename Element>
void attention_mass(const AttentionMass<Element>& call) {
  std::fill_n(call.mass, call.batch * call.kv_heads * call.capacity, 0.0f);
  std::vector<Span> spans;
  int64_t slots = 0;
  for (int64_t b = 0; b < call.batch; ++b) {
    const int64_t length = clamp(call.prefix_lens[b], 0, call.capacity);
    slots += length;
    for (int64_t kv_head = 0; kv_head < call.kv_heads; ++kv_head) {
      for (int64_t first = 0; first < length; first += kSlotsOfUnit) {
        spans.push_back({b, kv_head, first, std::min(first + kSlotsOfUnit, length)});
      }
    }
  }
  const int64_t steps = slots * call.heads * call.num_rows * call.head_dim;
  const int64_t threads = steps < kStepsWorthThreads ? 1 : num_threads();
  const auto weigh = weigh_here<Element>();
  run_shared(static_cast<int64_t>(spans.size()), threads,
             [&](int64_t item) { weigh(call, spans[item]); });
}

template void attention_mass(const AttentionMass<float>&);
template void attention_mass(const AttentionMass<Half>&);
template void attention_mass(const AttentionMass<BFloat16>&);

}  // namespace sparrow::cpu
