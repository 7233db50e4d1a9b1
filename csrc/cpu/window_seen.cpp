#include "cpu/window_seen.h"

namespace sparrow::cpu {
namespace {

// The lowest `count` lanes.
uint64_t lowest(int64_t count) {
  return count >= kTile ? ~uint64_t{0} : (uint64_t{1} << std::max<int64_t>(count, 0)) - 1;
}

}  // namespace

WindowSeen::WindowSeen(const WindowShape& shape)
    : length_(shape.length),
      window_(shape.window),
      anchors_(shape.batch * length_),
      rank_(shape.batch * (length_ + 1)),
      words_(length_ / kTile + 2) {
  bits_.resize(shape.batch * words_);
  for (int64_t b = 0; b < shape.batch; ++b) {
    const bool* anchors = shape.anchors[b];
    int32_t* list = anchors_.data() + b * length_;
    int32_t* rank = rank_.data() + b * (length_ + 1);
    int32_t count = 0;
    for (int64_t slot = 0; slot < length_; ++slot) {
      rank[slot] = count;
      if (!anchors[slot]) continue;
      list[count++] = static_cast<int32_t>(slot);
      bits_[b * words_ + slot / kTile] |= uint64_t{1} << slot % kTile;
    }
    rank[length_] = count;
  }
}

void WindowSeen::mask_listed(const Block& block, int64_t at, uint64_t* masks) const {
  const int64_t listed = num_listed(block);
  for (int64_t row = block.first; row < block.end; ++row) {
    const int64_t own = window_ == 0 ? rank(block.b)[row + 1] : listed;
    masks[row - block.first] = lowest(own - at);
  }
}

void WindowSeen::mask_band(const Block& block, int64_t at, uint64_t* masks) const {
  const uint64_t* words = bits_.data() + block.b * words_ + at / kTile;
  const int64_t shift = at % kTile;
  const uint64_t anchors = shift == 0 ? words[0] : words[0] >> shift | words[1] << (kTile - shift);
  for (int64_t row = block.first; row < block.end; ++row) {
    const uint64_t left_behind = row < window_ ? 0 : lowest(row - window_ + 1 - at);
    masks[row - block.first] = lowest(row + 1 - at) & (anchors | ~left_behind);
  }
}

}  // namespace sparrow::cpu
