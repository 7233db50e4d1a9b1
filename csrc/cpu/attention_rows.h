// Where the rows of tree attention's tiles lie, tile by tile.
//
// They are looked up a tile before they are worked on, so that they can be asked for meanwhile: a
// processor foresees no jump to another page, and not enough of a long piece that is in no cache.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "cpu/attention_cache.h"
#include "cpu/attention_seen.h"
#include "cpu/lanes.h"

namespace sparrow::cpu {

template <typename Stored>
struct TileRows {
  const Tile* tile = nullptr;  // null: there is none
  uint64_t kept = 0;           // lanes that are there
  const Stored* keys[kTile];   // zeros for the other lanes
  const Stored* values[kTile];
  float biases[kTile] = {};

  int64_t lanes() const { return std::bit_width(kept); }
};

// Goes through tiles [first, last) of one request and KV head.
template <typename Element, typename Stored>
class RowFinder {
 public:
  RowFinder(const TreeAttention<Element, Stored>& call, const Seen& seen, int64_t b,
            int64_t kv_head, int64_t first, int64_t last, const Stored* zeros)
      : call_(call),
        seen_(seen),
        kv_head_(kv_head),
        next_(first),
        last_(last),
        zeros_(zeros),
        walk_(call.block_table, b),
        bias_(call.key_bias, b, kv_head) {
    if (walk_.is_paged()) return;
    first_key_ = walk_.first_row(call.key, kv_head);
    first_value_ = walk_.first_row(call.value, kv_head);
  }

  bool has_biases() const { return bias_.is_there(); }

  // The next tile of which anything is there.
  SPARROW_INLINE void find(TileRows<Stored>& rows) {
    rows.tile = nullptr;
    while (rows.tile == nullptr && next_ < last_) {
      const Tile& tile = seen_.tiles()[next_++];
      rows.kept = tile.seen;
      if (has_biases()) rows.kept &= ~read_biases(tile, rows.biases);
      if (rows.kept == 0) continue;
      rows.tile = &tile;
      point_at(tile, rows);
    }
  }

 private:
  // The bias of each lane; returned are the lanes that it takes away.
  SPARROW_INLINE uint64_t read_biases(const Tile& tile, float* biases) const {
    uint64_t lost = 0;
    for (int64_t lane = 0; lane < kTile; ++lane) {
      biases[lane] = 0.0f;
      if ((tile.seen >> lane & 1) == 0 || tile.slot(lane) >= seen_.length()) continue;
      const float of_slot = bias_.at(tile.slot(lane));
      if (of_slot == -HUGE_VALF) {
        lost |= uint64_t{1} << lane;
      } else {
        biases[lane] = of_slot;
      }
    }
    return lost;
  }

  SPARROW_INLINE void point_at(const Tile& tile, TileRows<Stored>& rows) {
    // Whether the lanes are all there, and their slots one behind the other: tiles of a prefix.
    const bool are_a_run = rows.kept == ~uint64_t{0} && tile.list == nullptr;
    for (int64_t lane = 0; lane < kTile;) {
      if ((rows.kept >> lane & 1) == 0) {
        rows.keys[lane] = rows.values[lane] = zeros_;
        ++lane;
        continue;
      }
      const bool is_elsewhere = walk_.go_to(tile.slot(lane));
      if (is_elsewhere) {
        first_key_ = walk_.first_row(call_.key, kv_head_);
        first_value_ = walk_.first_row(call_.value, kv_head_);
      }
      const Stored* key = first_key_ + walk_.row() * call_.key.row_stride;
      const Stored* value = first_value_ + walk_.row() * call_.value.row_stride;
      const int64_t end = are_a_run ? lane + std::min(walk_.run(), kTile - lane) : lane + 1;
      if (is_elsewhere) {
        const int64_t elements = std::min((end - lane) * call_.head_dim, kAsked);
        fetch(key, elements);
        fetch(value, elements);
      }
      for (; lane < end; ++lane) {
        rows.keys[lane] = key;
        rows.values[lane] = value;
        key += call_.key.row_stride;
        value += call_.value.row_stride;
      }
    }
  }

  // The beginning of a page: how it goes on the processor sees.
  static constexpr int64_t kAsked = 512 / sizeof(Stored);

  const TreeAttention<Element, Stored>& call_;
  const Seen& seen_;
  int64_t kv_head_, next_, last_;
  const Stored* zeros_;
  SlotWalk walk_;
  BiasRow<Element> bias_;
  // Of the page at hand, or of the request: what is left to each lane is its row.
  const Stored* first_key_ = nullptr;
  const Stored* first_value_ = nullptr;
};

}  // namespace sparrow::cpu
