#include "cpu/attention_seen.h"

#include <algorithm>
#include <bit>

namespace sparrow::cpu {
namespace {

// The lowest `count` lanes.
uint64_t lowest(int64_t count) {
  return count >= kTile ? ~uint64_t{0} : (uint64_t{1} << std::max<int64_t>(count, 0)) - 1;
}

}  // namespace

Seen::Seen(const Visibility& visibility, int64_t b, int64_t num_rows, int64_t capacity)
    : num_rows_(num_rows), length_(clamp(visibility.prefix_lens[b], 0, capacity)) {
  const int64_t length = length_;
  const int64_t start =
      visibility.prefix_starts == nullptr ? 0 : clamp(visibility.prefix_starts[b], 0, length);
  if (visibility.anchor_count == nullptr) {
    add_prefix(start, length);
  } else {
    const int32_t* depth = visibility.depth[b];
    // Distances beyond any cache are as good as the cache's own length: nothing overflows.
    const int64_t window = std::min(visibility.window, capacity + (int64_t{1} << 32));
    for (int64_t row = 0; row < num_rows; ++row) {
      window_starts_.push_back(clamp(length + depth[row] - window + 1, start, length));
    }
    add_anchors(visibility, b, start, length);
    add_window(start, length);
  }
  add_tree(visibility, b, length, capacity);
}

void Seen::add_prefix(int64_t start, int64_t length) {
  tiles_.reserve((length - start) / kTile + 2);
  for (int64_t first = start; first < length; first += kTile) {
    tiles_.push_back({first, nullptr, lowest(length - first), -1});
  }
  num_slots_ += length - start;
}

// A row takes an anchor from the list only if it lies before its own window.
void Seen::add_anchors(const Visibility& visibility, int64_t b, int64_t start, int64_t length) {
  const int32_t* slots = visibility.anchor_slots[b];
  const int64_t count = clamp(visibility.anchor_count[b], 0, visibility.max_anchors);
  if (num_rows_ == 0) return;
  const auto [shallowest, deepest] =
      std::minmax_element(window_starts_.begin(), window_starts_.end());
  int64_t at = std::lower_bound(slots, slots + count, start) - slots;
  for (; at < count && slots[at] < *deepest; at += kTile) {
    const int64_t listed = std::min(kTile, count - at);
    int32_t first = slots[at], last = slots[at];
    for (int64_t lane = 1; lane < listed; ++lane) {
      first = std::min(first, slots[at + lane]);
      last = std::max(last, slots[at + lane]);
    }
    // Most tiles lie before every window. A list that does not ascend is asked slot by slot.
    const bool seen_by_all = first >= start && last < *shallowest;
    for (int64_t row = 0; row < num_rows_; ++row) {
      uint64_t lanes = seen_by_all ? lowest(listed) : 0;
      for (int64_t lane = 0; lane < listed && !seen_by_all; ++lane) {
        const int64_t slot = slots[at + lane];
        lanes |= uint64_t{slot >= start && slot < window_starts_[row]} << lane;
      }
      masks_.push_back(lanes);
    }
    add_masked(0, slots + at);
  }
}

void Seen::add_window(int64_t start, int64_t length) {
  if (num_rows_ == 0) return;
  const int64_t lowest_start = *std::min_element(window_starts_.begin(), window_starts_.end());
  for (int64_t end = length; end > lowest_start; end -= kTile) {
    const int64_t first = end - kTile;
    for (int64_t row = 0; row < num_rows_; ++row) {
      masks_.push_back(~lowest(std::min(window_starts_[row], end) - first));
      if (window_starts_[row] >= end) masks_.back() = 0;
    }
    add_masked(first, nullptr);
  }
}

void Seen::add_tree(const Visibility& visibility, int64_t b, int64_t length, int64_t capacity) {
  for (int64_t word = 0; word < visibility.words; ++word) {
    const int64_t first = length + word * kTile;
    if (first >= capacity) return;
    const uint64_t room = lowest(capacity - first);
    for (int64_t row = 0; row < num_rows_; ++row) {
      const int64_t* words = visibility.ancestors + b * visibility.ancestors_batch_stride +
                             row * visibility.ancestors_row_stride;
      masks_.push_back(static_cast<uint64_t>(words[word]) & room);
    }
    add_masked(first, nullptr);
  }
}

void Seen::add_masked(int64_t first, const int32_t* list) {
  const auto begin = masks_.end() - num_rows_;
  uint64_t seen = 0, by_all = ~uint64_t{0};
  for (auto lanes = begin; lanes != masks_.end(); ++lanes) {
    seen |= *lanes;
    by_all &= *lanes;
  }
  const bool is_masked = seen != by_all;
  if (seen != 0) {
    const int64_t masks = is_masked ? begin - masks_.begin() : -1;
    tiles_.push_back({first, list, seen, masks});
    num_slots_ += std::popcount(seen);
  }
  if (seen == 0 || !is_masked) masks_.erase(begin, masks_.end());
}

}  // namespace sparrow::cpu
