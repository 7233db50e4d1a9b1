// What the rows of one request see of its cache, in tiles of 64 slots.
//
// Where a slot stands in its tile is decided by the request alone: the prefix is counted from its
// start, anchors from the first one, the window backwards from the end of the prefix, tree slots by
// their bits. A tile that a row sees nothing of leaves it as it was, bit for bit. So a row's result
// does not depend on the rows beside it.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/attention/tree_call.h"

namespace sparrow::cpu {

inline constexpr int64_t kTile = 64;

struct Tile {
  int64_t first;        // slot of lane 0, or
  const int32_t* list;  // the slot of each lane
  uint64_t seen;        // lanes that some row sees: the others are not read
  int64_t masks;        // where the rows' own lanes begin, [T]; -1: every row sees all of `seen`

  int64_t slot(int64_t lane) const { return list == nullptr ? first + lane : list[lane]; }
};

class Seen {
 public:
  // Of request `b`, for `num_rows` rows and a cache of `capacity` slots.
  Seen(const Visibility& visibility, int64_t b, int64_t num_rows, int64_t capacity);

  const std::vector<Tile>& tiles() const { return tiles_; }
  // The lanes of a tile that row `row` sees.
  uint64_t lanes(const Tile& tile, int64_t row) const {
    return tile.masks < 0 ? tile.seen : masks_[tile.masks + row];
  }
  int64_t num_slots() const { return num_slots_; }
  int64_t length() const { return length_; }  // of the prefix

 private:
  void add_prefix(int64_t start, int64_t length);
  void add_anchors(const Visibility& visibility, int64_t b, int64_t start, int64_t length);
  void add_window(int64_t start, int64_t length);
  void add_tree(const Visibility& visibility, int64_t b, int64_t length, int64_t capacity);
  // Keeps the tile if a row sees some of it; `masks_` holds the lanes of its rows at the end.
  void add_masked(int64_t first, const int32_t* list);

  int64_t num_rows_, length_;
  int64_t num_slots_ = 0;
  std::vector<Tile> tiles_;
  std::vector<uint64_t> masks_;
  std::vector<int64_t> window_starts_;  // of each row
};

}  // namespace sparrow::cpu
