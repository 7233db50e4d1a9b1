// Tree attention: what a request sees (attention_seen.h) in tiles (attention_tile.h), shared out
// over threads by request, KV head, rows and, where those are too few, parts of the tiles.
//
// The G query heads of a KV head are rows beside one another: each key is read once for all of
// them. Bytes read: 2 * slots seen * Hkv * D of the cache, once for each kMostRows rows.
#include "cpu/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "cpu/attention_rows.h"
#include "cpu/attention_tile.h"
#include "cpu/levels.h"
#include "cpu/parallel.h"

namespace sparrow::cpu {
namespace {

constexpr int64_t kMostRows = 240;   // of one pass over the tiles: their floats stay in the L2
constexpr int64_t kFewestTiles = 8;  // of a part: less is not worth joining
constexpr int64_t kStepsWorthThreads = 400'000;  // multiply-adds: some 30 us
constexpr int64_t kRowsOfASlot = 8;              // what a slot costs beside its rows, in rows
// A request's keys and values that may still lie in a processor's caches, and rows of which enough
// is asked for with the beginning of their page: to ask for all would cost a tenth there, and
// saves a fifth elsewhere.
constexpr int64_t kMostKept = 10 << 20;
constexpr int64_t kShortRow = 256;  // bytes

// Rows [begin, begin + count) of a KV head, head by head, over tiles [first, last) of a request.
struct Unit {
  int64_t b, kv_head, begin, count, first, last;
};

// What a part leaves to be joined, [count, width] and [count] twice.
struct Partial {
  float *out, *highest, *total;
};

// Memory of a thread's own, kept from call to call: what it works in, and what it has summed up.
enum class Purpose { kWork, kSums };
float* scratch(Purpose purpose, int64_t floats) {
  thread_local std::vector<float> memories[2];
  std::vector<float>& memory = memories[static_cast<int>(purpose)];
  if (static_cast<int64_t>(memory.size()) < floats) memory.resize(floats);
  return memory.data();
}

int64_t padded(int64_t head_dim) { return (head_dim + kPanel - 1) / kPanel * kPanel; }

template <typename Element>
SPARROW_INLINE void widen(const Element* from, int64_t count, int64_t width, float* to) {
  for (int64_t d = 0; d < count; ++d) to[d] = to_float(from[d]);
  for (int64_t d = count; d < width; ++d) to[d] = 0.0f;
}

template <typename Element, typename Stored>
SPARROW_INLINE const Element* query_row(const TreeAttention<Element, Stored>& call,
                                        const Unit& unit, int64_t row) {
  const int64_t group = call.heads / call.kv_heads, at = unit.begin + row;
  return call.query.row(unit.b, unit.kv_head * group + at / call.num_rows, at % call.num_rows);
}

template <typename V, typename Element, typename Stored>
SPARROW_INLINE void attend(const TreeAttention<Element, Stored>& call, const Seen& seen,
                           const Unit& unit, const Partial& partial) {
  const int64_t head_dim = call.head_dim, width = padded(head_dim), count = unit.count;
  // Values are read where they lie, if they are floats in whole panels.
  constexpr bool kIsFloat = std::is_same_v<Stored, float>;
  const bool in_place = kIsFloat && width == head_dim;
  float* query =
      scratch(Purpose::kWork, count * (head_dim + kTile + 1) + 2 * kTile * width + width);
  float* scores = query + count * head_dim;
  float* factors = scores + count * kTile;
  float* turned = factors + count;
  float* widened = turned + kTile * width;
  float* zeros = widened + kTile * width;
  std::memset(zeros, 0, width * sizeof(float));  // as bytes: read as floats and as stored
  std::fill_n(partial.out, count * width, 0.0f);
  std::fill_n(partial.highest, count, -HUGE_VALF);
  std::fill_n(partial.total, count, 0.0f);
  for (int64_t row = 0; row < count; ++row) {
    widen(query_row(call, unit, row), head_dim, head_dim, query + row * head_dim);
  }
  const RowsAtWork rows{count,           head_dim,      width,  query,  partial.out,
                        partial.highest, partial.total, scores, factors};
  const bool turns_keys = call.num_splits > 0 || !are_few(count, head_dim);
  const float scale = call.scale * call.key_scale.at(unit.b, unit.kv_head);
  RowFinder<Element, Stored> finder(call, seen, unit.b, unit.kv_head, unit.first, unit.last,
                                    reinterpret_cast<const Stored*>(zeros));
  const int64_t row_bytes = head_dim * sizeof(Stored);
  const bool asks = call.block_table.rows.data == nullptr || row_bytes > kShortRow ||
                    2 * seen.num_slots() * call.kv_heads * row_bytes > kMostKept;
  TileRows<Stored> tiles[2];
  finder.find(tiles[0]);
  for (int turn = 0; tiles[turn].tile != nullptr; turn ^= 1) {
    const TileRows<Stored>&here = tiles[turn], &next = tiles[turn ^ 1];
    finder.find(tiles[turn ^ 1]);
    RowsAhead<Stored> ahead;
    if (asks && next.tile != nullptr) ahead = {next.keys, next.values};
    const float* widened_rows[kTile];
    const float* const* values = widened_rows;
    if (in_place) {
      if constexpr (kIsFloat) values = here.values;
    } else {
      for (int64_t lane = 0; lane < here.lanes(); ++lane) {
        widened_rows[lane] = widened + lane * width;
        widen(here.values[lane], head_dim, width, widened + lane * width);
      }
    }
    const auto mask_of = [&](int64_t row) __attribute__((always_inline)) {
      return seen.lanes(*here.tile, (unit.begin + row) % call.num_rows) & here.kept;
    };
    attend_tile<V>(rows, here.keys, values, here.lanes(), scale, turns_keys, mask_of, turned,
                   finder.has_biases() ? here.biases : nullptr, ahead);
  }
}

// The same for each vector unit.
template <typename Element, typename Stored>
void attend_baseline(const TreeAttention<Element, Stored>& call, const Seen& seen, const Unit& unit,
                     const Partial& partial) {
  attend<Vector<4>>(call, seen, unit, partial);
}
#if defined(SPARROW_HAS_LEVELS)
template <typename Element, typename Stored>
SPARROW_AVX2 void attend_avx2(const TreeAttention<Element, Stored>& call, const Seen& seen,
                              const Unit& unit, const Partial& partial) {
  attend<Vector<8>>(call, seen, unit, partial);
}
template <typename Element, typename Stored>
SPARROW_AVX512 void attend_avx512(const TreeAttention<Element, Stored>& call, const Seen& seen,
                                  const Unit& unit, const Partial& partial) {
  attend<Vector<16>>(call, seen, unit, partial);
}
#endif

template <typename Element, typename Stored>
auto attend_here() {
#if defined(SPARROW_HAS_LEVELS)
  if (level() == Level::kAvx512) return &attend_avx512<Element, Stored>;
  if (level() == Level::kAvx2) return &attend_avx2<Element, Stored>;
#endif
  return &attend_baseline<Element, Stored>;
}

// Joins the parts of a unit and writes its rows.
template <typename Element, typename Stored>
void finish(const TreeAttention<Element, Stored>& call, const Unit& unit,
            const std::vector<Partial>& parts) {
  const int64_t width = padded(call.head_dim), group = call.heads / call.kv_heads;
  const float value_scale = call.value_scale.at(unit.b, unit.kv_head);
  for (int64_t row = 0; row < unit.count; ++row) {
    float highest = -HUGE_VALF, total = 0.0f;
    for (const Partial& part : parts) highest = std::max(highest, part.highest[row]);
    float* joined = parts[0].out + row * width;
    for (const Partial& part : parts) {
      const bool is_empty = part.highest[row] == -HUGE_VALF;
      const float factor = is_empty ? 0.0f : std::exp(part.highest[row] - highest);
      const float* out = part.out + row * width;
      if (&part == &parts[0]) {
        for (int64_t d = 0; d < call.head_dim; ++d) joined[d] = out[d] * factor;
      } else if (!is_empty) {
        for (int64_t d = 0; d < call.head_dim; ++d) joined[d] += out[d] * factor;
      }
      total += part.total[row] * factor;
    }
    const int64_t head = unit.kv_head * group + (unit.begin + row) / call.num_rows;
    const int64_t node = (unit.begin + row) % call.num_rows;
    const float share = total == 0.0f ? 0.0f : value_scale / total;
    Element* out = call.out.row(unit.b, head, node);
    for (int64_t d = 0; d < call.head_dim; ++d) from_float(joined[d] * share, &out[d]);
    if (call.lse.data != nullptr) {
      *call.lse.row(unit.b, head, node) = total == 0.0f ? -HUGE_VALF : highest + std::log(total);
    }
  }
}

// Parts of every unit, so that threads end together.
int64_t parts_for(int64_t units, int64_t tiles, int64_t threads) {
  const int64_t most = std::max<int64_t>(1, tiles / kFewestTiles);
  int64_t best = 1;
  double best_waste = 2.0;
  for (int64_t parts = 1; parts <= std::min(most, 2 * threads); ++parts) {
    const double shares = static_cast<double>(units * parts) / threads;
    const double waste = std::ceil(shares) / shares + 0.02 * parts;
    if (waste < best_waste - 1e-9) {
      best = parts;
      best_waste = waste;
    }
  }
  return best;
}

}  // namespace

template <typename Element, typename Stored>
void tree_attention(const TreeAttention<Element, Stored>& call) {
  const int64_t all_rows = call.num_rows * (call.heads / call.kv_heads);
  const int64_t passes = (all_rows + kMostRows - 1) / kMostRows;
  const int64_t width = padded(call.head_dim);
  std::vector<Seen> seen;
  seen.reserve(call.batch);
  int64_t most_tiles = 0, slots = 0;
  for (int64_t b = 0; b < call.batch; ++b) {
    seen.emplace_back(call.visibility, b, call.num_rows, call.capacity);
    most_tiles = std::max(most_tiles, static_cast<int64_t>(seen[b].tiles().size()));
    slots += seen[b].num_slots();
  }
  const int64_t groups = call.batch * call.kv_heads * passes;
  if (groups == 0) return;
  const int64_t steps = slots * call.kv_heads * (all_rows + kRowsOfASlot) * call.head_dim;
  const int64_t threads = steps < kStepsWorthThreads ? 1 : num_threads();
  // More parts than tiles would be empty, and change no bit.
  const int64_t parts = call.num_splits > 0
                            ? std::min(call.num_splits, std::max<int64_t>(1, most_tiles))
                            : parts_for(groups, most_tiles, threads);

  // Of each part of each group: its rows, and where what it leaves goes.
  const auto unit_of = [&](int64_t group, int64_t part) {
    const int64_t pass = group % passes, kv_head = group / passes % call.kv_heads;
    const int64_t b = group / passes / call.kv_heads;
    const int64_t begin = pass * all_rows / passes, end = (pass + 1) * all_rows / passes;
    const int64_t tiles = static_cast<int64_t>(seen[b].tiles().size());
    return Unit{b, kv_head, begin, end - begin, part * tiles / parts, (part + 1) * tiles / parts};
  };
  const int64_t floats = ((all_rows + passes - 1) / passes) * (width + 2);
  const auto attend_unit = attend_here<Element, Stored>();
  const auto part_in = [&](float* memory, const Unit& unit) {
    float* highest = memory + unit.count * width;
    return Partial{memory, highest, highest + unit.count};
  };
  if (parts == 1) {
    run_shared(groups, threads, [&](int64_t group) {
      const Unit unit = unit_of(group, 0);
      const Partial partial = part_in(scratch(Purpose::kSums, floats), unit);
      attend_unit(call, seen[unit.b], unit, partial);
      finish(call, unit, {partial});
    });
    return;
  }
  float* memory = scratch(Purpose::kSums, groups * parts * floats);
  run_shared(groups * parts, threads, [&](int64_t item) {
    const Unit unit = unit_of(item / parts, item % parts);
    attend_unit(call, seen[unit.b], unit, part_in(memory + item * floats, unit));
  });
  run_shared(groups, threads, [&](int64_t group) {
    const Unit unit = unit_of(group, 0);
    std::vector<Partial> partials;
    for (int64_t part = 0; part < parts; ++part) {
      partials.push_back(part_in(memory + (group * parts + part) * floats, unit));
    }
    finish(call, unit, partials);
  });
}

template void tree_attention(const TreeAttention<float>&);
template void tree_attention(const TreeAttention<Half>&);
template void tree_attention(const TreeAttention<BFloat16>&);
template void tree_attention(const TreeAttention<float, Float8>&);
template void tree_attention(const TreeAttention<Half, Float8>&);
template void tree_attention(const TreeAttention<BFloat16, Float8>&);

}  // namespace sparrow::cpu
