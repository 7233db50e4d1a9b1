// Whole-sequence attention: blocks of rows over the tiles that they see (window_seen.h), each by
// attend_tile. A block's rows are those of all G query heads of a KV head: no head is copied.
//
// A unit is a block of one KV head. Keys and values are read once for each block that sees them.
#include <cmath>

#include "cpu/levels.h"
#include "cpu/window_attention.h"
#include "cpu/window_work.h"

namespace sparrow::cpu {
namespace {

// One tile for the rows of a block.
struct Attend {
  RowsAtWork rows;
  const float* const* keys;
  const float* const* values;
  int64_t lanes;
  float scale;
  const uint64_t* masks;  // of each row
  float* turned;
};

template <typename V>
SPARROW_INLINE void attend(const Attend& a) {
  const auto mask_of = [&](int64_t row) __attribute__((always_inline)) { return a.masks[row]; };
  attend_tile<V>(a.rows, a.keys, a.values, a.lanes, a.scale, /*turns_keys=*/true, mask_of,
                 a.turned);
}

// The same for each vector unit.
void attend_baseline(const Attend& a) { attend<Vector<4>>(a); }
#if defined(SPARROW_HAS_LEVELS)
SPARROW_AVX2 void attend_avx2(const Attend& a) { attend<Vector<8>>(a); }
SPARROW_AVX512 void attend_avx512(const Attend& a) { attend<Vector<16>>(a); }
#endif

auto attend_here() {
#if defined(SPARROW_HAS_LEVELS)
  if (level() == Level::kAvx512) return &attend_avx512;
  if (level() == Level::kAvx2) return &attend_avx2;
#endif
  return &attend_baseline;
}

// A worker's memory for blocks of at most so many rows.
struct Memory {
  Memory(int64_t count, int64_t head_dim, int64_t width, Parts& parts)
      : query(parts.take(count * head_dim)),
        out(parts.take(count * width)),
        highest(parts.take(count)),
        total(parts.take(count)),
        scores(parts.take(count * kTile)),
        factors(parts.take(count)),
        masks(reinterpret_cast<uint64_t*>(parts.take(2 * count))),
        turned(parts.take(kTile * width)),
        keys(parts.take(kTile * width)),
        values(parts.take(kTile * width)),
        zeros(parts.take(width)) {}
  float *query, *out, *highest, *total, *scores, *factors;
  uint64_t* masks;
  float *turned, *keys, *values, *zeros;
};

template <typename Element>
void attend_block(const WindowAttention<Element>& call, const WindowSeen& seen, const Block& block,
                  int64_t kv_head, const Memory& memory) {
  const WindowShape& shape = call.shape;
  const int64_t head_dim = shape.head_dim, width = width_of(shape);
  const int64_t positions = block.end - block.first;
  const int64_t count = positions * (shape.heads / shape.kv_heads);
  for (int64_t row = 0; row < count; ++row) {
    const RowOfBlock at(shape, block, kv_head, row);
    widen(call.query.row(block.b, at.head, at.i), head_dim, head_dim,
          memory.query + row * head_dim);
  }
  std::fill_n(memory.out, count * width, 0.0f);
  std::fill_n(memory.highest, count, -HUGE_VALF);
  std::fill_n(memory.total, count, 0.0f);
  std::fill_n(memory.zeros, width, 0.0f);
  TileRows keys{{}, memory.keys, memory.zeros}, values{{}, memory.values, memory.zeros};
  Attend work{{count, head_dim, width, memory.query, memory.out, memory.highest, memory.total,
               memory.scores, memory.factors},
              keys.rows,
              values.rows,
              0,
              shape.scale,
              memory.masks,
              memory.turned};
  const auto attend_one = attend_here();
  seen.visit_tiles(block, memory.masks, [&](const WindowTile& tile) {
    repeat_masks(memory.masks, positions, count);
    keys.fill(call.key, block, kv_head, tile, head_dim, width);
    values.fill(call.value, block, kv_head, tile, head_dim, width);
    work.lanes = tile.lanes;
    attend_one(work);
  });
  for (int64_t row = 0; row < count; ++row) {
    const RowOfBlock at(shape, block, kv_head, row);
    const float total = memory.total[row];
    narrow(memory.out + row * width, total == 0.0f ? 0.0f : 1.0f / total, head_dim,
           call.out.row(block.b, at.head, at.i));
    *call.lse.row(block.b, at.head, at.i) =
        total == 0.0f ? -HUGE_VALF : memory.highest[row] + std::log(total);
  }
}

}  // namespace

template <typename Element>
void window_attention(const WindowAttention<Element>& call) {
  const WindowShape& shape = call.shape;
  const int64_t blocks = num_blocks(shape), units = shape.batch * shape.kv_heads * blocks;
  if (units == 0 || shape.heads == 0) return;
  const WindowSeen seen(shape);
  const int64_t workers = workers_for(shape, seen, units);
  const int64_t most = positions_of_block(shape) * (shape.heads / shape.kv_heads);
  const auto memory_in = [&](float* memory) {
    Parts parts(memory);
    const Memory laid_out(most, shape.head_dim, width_of(shape), parts);
    return std::pair(laid_out, parts.taken());
  };
  const int64_t floats = memory_in(nullptr).second;
  float* memory = call.scratch.template get<float>(workers * floats);
  run_in_turn(units, workers, [&](int64_t worker, int64_t unit) {
    // Blocks that see most come first, of all requests and heads.
    const int64_t number = unit / (shape.batch * shape.kv_heads);
    const int64_t kv_head = unit % shape.kv_heads, b = unit / shape.kv_heads % shape.batch;
    attend_block(call, seen, block_of(shape, b, number), kv_head,
                 memory_in(memory + worker * floats).first);
  });
}

template void window_attention(const WindowAttention<float>&);
template void window_attention(const WindowAttention<Half>&);
template void window_attention(const WindowAttention<BFloat16>&);

}  // namespace sparrow::cpu
