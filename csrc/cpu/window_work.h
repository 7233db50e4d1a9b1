// What the two passes of whole-sequence attention share: memory to work in, and a tile's rows.
#pragma once

#include <algorithm>
#include <type_traits>

#include "cpu/widen.h"
#include "cpu/window_seen.h"
#include "cpu/window_shares.h"

namespace sparrow::cpu {

// Hands out parts of a worker's memory, each at the start of a cache line; without any it counts.
class Parts {
 public:
  explicit Parts(float* memory) : memory_(memory) {}
  float* take(int64_t floats) {
    float* part = memory_ == nullptr ? nullptr : memory_ + taken_;
    taken_ += (floats + 15) / 16 * 16;
    return part;
  }
  int64_t taken() const { return taken_; }

 private:
  float* memory_;
  int64_t taken_ = 0;
};

// The keys or values of a tile, as rows of floats [width] of which dims past the head's are 0.
struct TileRows {
  const float* rows[kTile];
  float* widened;      // [kTile, width]
  const float* zeros;  // [width]

  // Lanes past the tile's are zeros.
  template <typename Element>
  void fill(const HeadRows<const Element>& from, const Block& block, int64_t kv_head,
            const WindowTile& tile, int64_t head_dim, int64_t width) {
    for (int64_t lane = 0; lane < kTile; ++lane) {
      rows[lane] = zeros;
      if (lane >= tile.lanes) continue;
      const Element* row = from.row(block.b, kv_head, tile.slot(lane));
      if constexpr (std::is_same_v<Element, float>) {
        rows[lane] = row;
        if (width == head_dim) continue;
      }
      widen(row, head_dim, width, widened + lane * width);
      rows[lane] = widened + lane * width;
    }
  }
};

// Row `row` of a block, of one KV head: head by head, position by position.
struct RowOfBlock {
  int64_t head, i;  // of the query's heads and rows

  RowOfBlock(const WindowShape& shape, const Block& block, int64_t kv_head, int64_t row)
      : head(kv_head * (shape.heads / shape.kv_heads) + row / (block.end - block.first)),
        i(block.first + row % (block.end - block.first) - (shape.length - shape.num_rows)) {}
};

// masks[i] of the block's positions, for the rows of each further head as well.
inline void repeat_masks(uint64_t* masks, int64_t positions, int64_t count) {
  for (int64_t row = positions; row < count; ++row) masks[row] = masks[row - positions];
}

}  // namespace sparrow::cpu
