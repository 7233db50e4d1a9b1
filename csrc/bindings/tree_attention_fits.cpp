#include "bindings/tree_attention_fits.h"

#include <bit>
#include <limits>
#include <vector>

#include "bindings/arguments.h"
#include "bindings/library.h"
#include "kernels/gather/fits.h"

namespace sparrow::bindings {
namespace {

// Ascending slots of a cache of `capacity` slots, and the number of them below each.
bool anchors_fit(const int32_t* slots, int64_t listed, int64_t number, const int32_t* rank,
                 int64_t capacity) {
  if (number < 0 || number > listed || rank[capacity] != number) return false;
  int64_t before = -1;
  for (int64_t k = 0; k < number; ++k) {
    const int64_t slot = slots[k];
    if (slot <= before || slot >= capacity || rank[slot] != k) return false;
    before = slot;
  }
  return true;
}

// Tree slots of request `b` up to the last that one of its rows sees.
int64_t tree_slots(const Visibility& seen, int64_t b, int64_t num_rows) {
  const int64_t* ancestors = seen.ancestors + b * seen.ancestors_batch_stride;
  for (int64_t word = seen.words; word-- > 0;) {
    uint64_t bits = 0;
    for (int64_t row = 0; row < num_rows; ++row) {
      bits |= static_cast<uint64_t>(ancestors[row * seen.ancestors_row_stride + word]);
    }
    if (bits != 0) return 64 * word + std::bit_width(bits);
  }
  return 0;
}

// Whether an anchor index is what tree attention asks for. What is wrong with one that is not,
// Python says.
bool anchors_ascend(const Tensor& slots, const Tensor& count, const Tensor& rank) {
  const Arguments arguments("anchors_ascend", slots);
  arguments.check("slots", slots, ScalarType::Int, {kAny, kAny});
  const int64_t batch = slots.size(0), listed = slots.size(1);
  arguments.check("count", count, ScalarType::Int, {batch});
  arguments.check("rank", rank, ScalarType::Int, {batch, kAny});
  const auto slots_of = rows<const int32_t>(slots), rank_of = rows<const int32_t>(rank);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t number = data<const int32_t>(count)[b];
    if (!anchors_fit(slots_of[b], listed, number, rank_of[b], rank.size(1) - 1)) return false;
  }
  return true;
}

}  // namespace

bool tree_attention_fits(const Asked& call) {
  const Visibility& seen = call.visibility;
  const int64_t capacity = call.pages.capacity();
  const bool is_paged = call.pages.table.data != nullptr;
  if (call.num_rows > 64 * seen.words) return false;  // which only rows without bits may do
  std::vector<Span> spans;
  for (int64_t b = 0; b < call.batch; ++b) {
    const int64_t length = seen.prefix_lens[b];
    const int64_t start = seen.prefix_starts == nullptr ? 0 : seen.prefix_starts[b];
    if (length < 0 || length > capacity || start < 0 || start > length) return false;
    const bool may_end_outside = capacity - length < 64 * seen.words;
    if (is_paged || may_end_outside) {
      const int64_t end = length + tree_slots(seen, b, call.num_rows);
      if (end > capacity) return false;
      // Nothing is written.
      if (is_paged) spans.push_back({start, end, std::numeric_limits<int64_t>::max()});
    }
    if (seen.anchor_count != nullptr &&
        !anchors_fit(seen.anchor_slots[b], seen.max_anchors, seen.anchor_count[b], call.rank[b],
                     capacity)) {
      return false;
    }
  }
  return !is_paged || spans_fit(call.pages, spans);
}

SPARROW_IMPLEMENT_ON_CPU(library) { library.impl("anchors_ascend", TORCH_BOX(&anchors_ascend)); }

}  // namespace sparrow::bindings
