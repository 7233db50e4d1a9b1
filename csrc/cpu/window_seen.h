// What a block of positions of one request sees, in tiles of 64 slots.
//
// Two kinds of tiles. Listed ones hold anchors, in order, wherever they lie: those that the block's
// window has left behind, which all its rows see, or with no window at all every anchor. Then the
// band, from where the first row's window begins to the block's end. Each slot comes once.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/attention_seen.h"  // kTile
#include "kernels/attention/window_call.h"

namespace sparrow::cpu {

// Positions [first, end) of request b.
struct Block {
  int64_t b, first, end;
};

struct WindowTile {
  int64_t at;           // of lane 0: its place in the list of anchors, or its slot
  const int32_t* list;  // the slot of each lane, null in the band
  int64_t lanes;        // at least 1; each is seen by some row

  int64_t slot(int64_t lane) const { return list == nullptr ? at + lane : list[lane]; }
};

class WindowSeen {
 public:
  explicit WindowSeen(const WindowShape& shape);

  // Calls visit(tile) for each tile of what the block sees. masks[i], where the caller has room:
  // the lanes that row first + i sees.
  template <typename Visit>
  void visit_tiles(const Block& block, uint64_t* masks, const Visit& visit) const {
    const int64_t listed = num_listed(block);
    for (int64_t at = 0; at < listed; at += kTile) {
      mask_listed(block, at, masks);
      visit(WindowTile{at, anchors(block.b) + at, std::min(kTile, listed - at)});
    }
    for (int64_t at = window_ == 0 ? block.end : band_start(block); at < block.end; at += kTile) {
      mask_band(block, at, masks);
      visit(WindowTile{at, nullptr, std::min(kTile, block.end - at)});
    }
  }

  // Anchors in the listed tiles of a block: the first so many.
  int64_t num_listed(const Block& block) const {
    return rank(block.b)[window_ == 0 ? block.end : band_start(block)];
  }
  int64_t band_start(const Block& block) const {
    return block.first < window_ ? 0 : block.first - window_ + 1;
  }
  const int32_t* anchors(int64_t b) const { return anchors_.data() + b * length_; }
  // [length + 1]: how many anchors lie below a slot.
  const int32_t* rank(int64_t b) const { return rank_.data() + b * (length_ + 1); }
  bool is_anchor(int64_t b, int64_t slot) const { return rank(b)[slot] != rank(b)[slot + 1]; }

 private:
  void mask_listed(const Block& block, int64_t at, uint64_t* masks) const;
  void mask_band(const Block& block, int64_t at, uint64_t* masks) const;

  int64_t length_, window_;
  std::vector<int32_t> anchors_, rank_;
  std::vector<uint64_t> bits_;  // of anchors, [B, words_]
  int64_t words_;
};

}  // namespace sparrow::cpu
