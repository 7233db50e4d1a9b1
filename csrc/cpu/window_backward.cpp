// Gradients of whole-sequence attention: the blocks and tiles of the forward pass, once each
// (window_tile.h).
//
// A unit is a run of blocks of one KV head, and sums up by itself what they give to keys and
// values: to listed anchors by their place in the list, to the band by slot. What units give to a
// slot is then added in their order. Memory: 2 * (positions + window + anchors) * D floats a unit.
#include <cmath>
#include <vector>

#include "cpu/levels.h"
#include "cpu/window_attention.h"
#include "cpu/window_tile.h"
#include "cpu/window_work.h"

namespace sparrow::cpu {
namespace {

constexpr int64_t kMostUnits = 64;   // that are made on purpose, for as many threads
constexpr int64_t kRowsOfRun = 256;  // at least about half of them

// The same for each vector unit; without a tile, before the first one.
void pass_baseline(const RowGradients& rows, const TileGradients* tile) {
  tile == nullptr ? start_rows<Vector<4>>(rows) : differentiate_tile<Vector<4>>(rows, *tile);
}
#if defined(SPARROW_HAS_LEVELS)
SPARROW_AVX2 void pass_avx2(const RowGradients& rows, const TileGradients* tile) {
  tile == nullptr ? start_rows<Vector<8>>(rows) : differentiate_tile<Vector<8>>(rows, *tile);
}
SPARROW_AVX512 void pass_avx512(const RowGradients& rows, const TileGradients* tile) {
  tile == nullptr ? start_rows<Vector<16>>(rows) : differentiate_tile<Vector<16>>(rows, *tile);
}
#endif

auto pass_here() {
#if defined(SPARROW_HAS_LEVELS)
  if (level() == Level::kAvx512) return &pass_avx512;
  if (level() == Level::kAvx2) return &pass_avx2;
#endif
  return &pass_baseline;
}

// Blocks [first, end) of a KV head, and its sums: of `listed` anchors, then of the band.
struct Unit {
  int64_t b, kv_head, first, end;
  int64_t band_start, band_end, listed;
  float *d_key, *d_value;  // [slots, width]

  int64_t slots() const { return listed + band_end - band_start; }
};

// The units of one request and KV head stand together, in the order of their blocks.
std::vector<Unit> units_of(const WindowShape& shape, const WindowSeen& seen, int64_t runs) {
  std::vector<Unit> units;
  const int64_t blocks = num_blocks(shape);
  for (int64_t each = 0; each < shape.batch * shape.kv_heads; ++each) {
    for (int64_t run = 0; run < runs; ++run) {
      const int64_t b = each / shape.kv_heads;
      const int64_t first = run * blocks / runs, end = (run + 1) * blocks / runs;
      const Block last = block_of(shape, b, end - 1);
      const int64_t band_start =
          shape.window == 0 ? last.end : seen.band_start(block_of(shape, b, first));
      units.push_back({b, each % shape.kv_heads, first, end, band_start, last.end,
                       seen.num_listed(last), nullptr, nullptr});
    }
  }
  return units;
}

// Gives the units memory for their sums. If each is the only one of its KV head and sums up floats
// of every slot in order, that is the result itself, and true is returned.
template <typename Element>
bool place_sums(const WindowGradients<Element>& call, int64_t runs, std::vector<Unit>& units) {
  const int64_t width = width_of(call.shape);
  if constexpr (std::is_same_v<Element, float>) {
    if (runs == 1 && width == call.shape.head_dim && call.shape.window >= call.shape.length) {
      for (Unit& unit : units) {
        unit.d_key = call.d_key.row(unit.b, unit.kv_head, 0);
        unit.d_value = call.d_value.row(unit.b, unit.kv_head, 0);
      }
      return true;
    }
  }
  int64_t slots = 0;
  for (const Unit& unit : units) slots += unit.slots();
  float* sums = call.scratch.template get<float>(2 * slots * width);
  for (Unit& unit : units) {
    unit.d_key = sums;
    unit.d_value = sums + unit.slots() * width;
    sums += 2 * unit.slots() * width;
  }
  return false;
}

// Runs of blocks of each KV head: enough for many threads, but each of so many rows that its sums
// are little beside its products, and, unless they are few, sums of no more than twice as many
// slots as there are. By the inputs alone, so that bits are.
int64_t runs_for(const WindowShape& shape, const WindowSeen& seen) {
  const int64_t heads = shape.batch * shape.kv_heads;
  int64_t anchors = 0;
  for (int64_t b = 0; b < shape.batch; ++b) {
    anchors = std::max<int64_t>(anchors, seen.rank(b)[shape.length]);
  }
  const int64_t beside = std::max<int64_t>(1, std::min(shape.window, shape.length) + anchors);
  const int64_t for_memory = std::max<int64_t>(4, 2 * shape.length / beside);
  const int64_t for_threads = std::max<int64_t>(1, kMostUnits / heads);
  const int64_t rows = shape.num_rows * (shape.heads / shape.kv_heads);
  return std::min({for_memory, for_threads, num_blocks(shape), 1 + rows / kRowsOfRun});
}

// A worker's memory for blocks of at most so many rows.
struct Memory {
  Memory(int64_t count, int64_t width, int64_t row_stride, Parts& parts)
      : stride(row_stride),
        query(parts.take(count * stride)),
        grad(parts.take(count * stride)),
        d_query(parts.take(count * stride)),
        lse(parts.take(count)),
        delta(parts.take(count)),
        weights(parts.take(count * kTileStride)),
        d_scores(parts.take(count * kTileStride)),
        ones(parts.take(std::max(count, kTile))),
        masks(reinterpret_cast<uint64_t*>(parts.take(2 * count))),
        turned(parts.take(kTile * width)),
        keys(parts.take(kTile * width)),
        values(parts.take(kTile * width)),
        zeros(parts.take(width)) {}
  int64_t stride;
  float *query, *grad, *d_query, *lse, *delta, *weights, *d_scores, *ones;
  uint64_t* masks;
  float *turned, *keys, *values, *zeros;
};

// The rows of a block as floats. One that sees nothing has no part in anything: its gradients may
// be no numbers.
template <typename Element>
void load_rows(const WindowGradients<Element>& call, const Block& block, int64_t kv_head,
               int64_t count, const Memory& memory) {
  const int64_t head_dim = call.shape.head_dim, stride = memory.stride;
  for (int64_t row = 0; row < count; ++row) {
    const RowOfBlock at(call.shape, block, kv_head, row);
    const float lse = *call.lse.row(block.b, at.head, at.i);
    const bool is_blind = lse == -HUGE_VALF;
    const int64_t dims = is_blind ? 0 : head_dim;
    widen(call.query.row(block.b, at.head, at.i), dims, stride, memory.query + row * stride);
    widen(call.grad.row(block.b, at.head, at.i), dims, stride, memory.grad + row * stride);
    widen(call.out.row(block.b, at.head, at.i), dims, stride, memory.d_query + row * stride);
    memory.lse[row] = is_blind ? 0.0f : lse;
    const bool has_more = call.grad_lse.data != nullptr && !is_blind;
    memory.delta[row] = has_more ? *call.grad_lse.row(block.b, at.head, at.i) : 0.0f;
  }
}

template <typename Element>
void differentiate_block(const WindowGradients<Element>& call, const WindowSeen& seen,
                         const Unit& unit, const Block& block, const Memory& memory) {
  const WindowShape& shape = call.shape;
  const int64_t head_dim = shape.head_dim, width = width_of(shape);
  const int64_t positions = block.end - block.first;
  const int64_t count = positions * (shape.heads / shape.kv_heads);
  load_rows(call, block, unit.kv_head, count, memory);
  const RowGradients rows{count,        head_dim,       width,           memory.stride,
                          memory.query, memory.grad,    memory.d_query,  memory.lse,
                          memory.delta, memory.weights, memory.d_scores, memory.ones};
  const auto pass = pass_here();
  pass(rows, nullptr);
  TileRows keys{{}, memory.keys, memory.zeros}, values{{}, memory.values, memory.zeros};
  seen.visit_tiles(block, memory.masks, [&](const WindowTile& tile) {
    repeat_masks(memory.masks, positions, count);
    keys.fill(call.key, block, unit.kv_head, tile, head_dim, width);
    values.fill(call.value, block, unit.kv_head, tile, head_dim, width);
    const int64_t at = tile.list == nullptr ? unit.listed + tile.at - unit.band_start : tile.at;
    const TileGradients own{keys.rows,
                            values.rows,
                            tile.lanes,
                            shape.scale,
                            memory.masks,
                            unit.d_key + at * width,
                            unit.d_value + at * width,
                            memory.turned};
    pass(rows, &own);
  });
  for (int64_t row = 0; row < count; ++row) {
    const RowOfBlock at(shape, block, unit.kv_head, row);
    narrow(memory.d_query + row * memory.stride, 1.0f, head_dim,
           call.d_query.row(block.b, at.head, at.i));
  }
}

// What the units of a KV head give to a slot of its keys and values.
template <typename Element>
void add_up(const WindowGradients<Element>& call, const WindowSeen& seen, int64_t b,
            int64_t kv_head, const Unit* units, int64_t runs, int64_t slot, float* total) {
  const int64_t head_dim = call.shape.head_dim, width = width_of(call.shape);
  std::fill_n(total, 2 * width, 0.0f);
  const auto add = [&](const Unit& unit, int64_t at) {
    const float* d_key = unit.d_key + at * width;
    const float* d_value = unit.d_value + at * width;
    for (int64_t d = 0; d < width; ++d) total[d] += d_key[d];
    for (int64_t d = 0; d < width; ++d) total[width + d] += d_value[d];
  };
  for (int64_t run = 0; run < runs; ++run) {
    const Unit& unit = units[run];
    if (slot >= unit.band_start && slot < unit.band_end) {
      add(unit, unit.listed + slot - unit.band_start);
    }
    if (seen.is_anchor(b, slot) && seen.rank(b)[slot] < unit.listed) {
      add(unit, seen.rank(b)[slot]);
    }
  }
  narrow(total, 1.0f, head_dim, call.d_key.row(b, kv_head, slot));
  narrow(total + width, 1.0f, head_dim, call.d_value.row(b, kv_head, slot));
}

}  // namespace

template <typename Element>
void window_gradients(const WindowGradients<Element>& call) {
  const WindowShape& shape = call.shape;
  const int64_t heads = shape.batch * shape.kv_heads, width = width_of(shape);
  if (heads == 0 || shape.length == 0) return;
  const WindowSeen seen(shape);
  const bool has_rows = shape.num_rows > 0 && shape.heads > 0;
  const int64_t runs = has_rows ? runs_for(shape, seen) : 0;
  std::vector<Unit> units = units_of(shape, seen, runs);
  const int64_t num_units = static_cast<int64_t>(units.size());
  const int64_t workers = workers_for(shape, seen, std::max<int64_t>(1, num_units));

  const int64_t most = positions_of_block(shape) * (shape.heads / shape.kv_heads);
  const int64_t stride = width / kPanel % 2 == 1 ? width : width + kPanel;
  const auto memory_in = [&](float* memory) {
    Parts parts(memory);
    const Memory laid_out(most, width, stride, parts);
    return std::pair(laid_out, parts.taken());
  };
  const int64_t floats = memory_in(nullptr).second;
  float* work = call.scratch.template get<float>(workers * floats);
  const bool is_summed_up = place_sums(call, runs, units);

  run_in_turn(num_units, workers, [&](int64_t worker, int64_t number) {
    // The last runs of blocks see most, and come first, of all requests and heads.
    const Unit& unit = units[number % heads * runs + number / heads];
    const Memory memory = memory_in(work + worker * floats).first;
    std::fill_n(memory.zeros, width, 0.0f);
    std::fill_n(memory.ones, std::max(most, kTile), 1.0f);
    std::fill_n(unit.d_key, unit.slots() * width, 0.0f);
    std::fill_n(unit.d_value, unit.slots() * width, 0.0f);
    for (int64_t block = unit.first; block < unit.end; ++block) {
      differentiate_block(call, seen, unit, block_of(shape, unit.b, block), memory);
    }
  });
  if (is_summed_up) return;
  run_shared(heads * shape.length, workers, [&](int64_t item) {
    thread_local std::vector<float> total;
    total.resize(2 * width);
    const int64_t head = item / shape.length;
    add_up(call, seen, head / shape.kv_heads, head % shape.kv_heads, units.data() + head * runs,
           runs, item % shape.length, total.data());
  });
}

template void window_gradients(const WindowGradients<float>&);
template void window_gradients(const WindowGradients<Half>&);
template void window_gradients(const WindowGradients<BFloat16>&);

}  // namespace sparrow::cpu
