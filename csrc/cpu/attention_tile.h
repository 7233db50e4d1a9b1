// Attention of up to a few hundred rows to one tile of 64 slots, on vectors.
//
//   s = q K^T * scale     m' = max(m, max s)     p = e^(s - m')
//   l = l * e^(m - m') + sum p                   o = o * e^(m - m') + p V
//
// The keys are turned once for all rows, so both products have the same form: a few rows of
// factors, each times a vector of 16 columns.
#pragma once

#include <bit>

#include "cpu/attention_seen.h"
#include "cpu/lanes.h"
#include "cpu/vectors.h"

namespace sparrow::cpu {

inline constexpr int64_t kPanel = 16;  // columns of a product that one turn of it makes

// Rows at work, all in floats; what is summed up over tiles.
struct RowsAtWork {
  int64_t count, head_dim, width;  // width: head_dim, up to whole panels
  const float* query;              // [count, head_dim]
  float* out;                      // [count, width]
  float* highest;                  // [count]
  float* total;                    // [count]
  float* scores;                   // [count, kTile]
  float* factors;                  // [count], what `out` is to be multiplied by
};

// Columns of the turned keys: panel by panel, [head_dim, kPanel] each.
struct PackedKeys {
  const float* data;
  int64_t depth;
  SPARROW_INLINE const float* at(int64_t k, int64_t panel) const {
    return data + (panel * depth + k) * kPanel;
  }
};

// Rows of values where they lie.
struct ValueRows {
  const float* const* rows;
  SPARROW_INLINE const float* at(int64_t k, int64_t panel) const {
    return rows[k] + panel * kPanel;
  }
};

// The same, a stride apart.
struct StridedRows {
  const float* data;
  int64_t stride;
  SPARROW_INLINE const float* at(int64_t k, int64_t panel) const {
    return data + k * stride + panel * kPanel;
  }
};

// How the left side of a product lies: a row of it together, or, turned, a column.
struct LeftRows {
  static SPARROW_INLINE const float* at(const float* a, int64_t stride, int64_t row, int64_t k) {
    return a + row * stride + k;
  }
};
struct LeftColumns {
  static SPARROW_INLINE const float* at(const float* a, int64_t stride, int64_t row, int64_t k) {
    return a + k * stride + row;
  }
};

// c[kRows, kPanels * kPanel] = c * factors + a[kRows, depth] b; without factors c is not read.
template <typename V, int kRows, int kPanels, typename Left, typename Columns>
SPARROW_INLINE void product(const float* a, int64_t a_stride, const Columns& b, int64_t panel,
                            int64_t depth, float* c, int64_t c_stride, const float* factors) {
  constexpr int kVectors = kPanels * (kPanel / V::kLanes);
  typename V::Floats sums[kRows][kVectors] = {};
  for (int64_t k = 0; k < depth; ++k) {
    typename V::Floats columns[kVectors];
    for (int p = 0; p < kPanels; ++p) {
      const float* from = b.at(k, panel + p);
      for (int v = 0; v < kPanel / V::kLanes; ++v) {
        columns[p * (kPanel / V::kLanes) + v] = V::load(from + v * V::kLanes);
      }
    }
    for (int row = 0; row < kRows; ++row) {
      const float factor = *Left::at(a, a_stride, row, k);
      for (int v = 0; v < kVectors; ++v) sums[row][v] += factor * columns[v];
    }
  }
  // What there was comes last: many short sums round less than a long one.
  for (int row = 0; row < kRows; ++row) {
    for (int v = 0; v < kVectors; ++v) {
      float* to = c + row * c_stride + v * V::kLanes;
      if (factors != nullptr) sums[row][v] += V::load(to) * factors[row];
      V::store(sums[row][v], to);
    }
  }
}

// One product: a [rows, depth], c [rows, panels * kPanel].
template <typename Left = LeftRows>
struct Factors {
  const float* a;
  int64_t a_stride, depth, panels;
  float* c;
  int64_t c_stride;
  const float* factors;
  int64_t rows;
};

// Rows [row, row + kRows), panels [panel, end).
template <typename V, int kRows, int kPanels, typename Left, typename Columns>
SPARROW_INLINE void product_of(const Factors<Left>& all, const Columns& b, int64_t row,
                               int64_t panel, int64_t end) {
  for (; panel + kPanels <= end; panel += kPanels) {
    product<V, kRows, kPanels, Left>(Left::at(all.a, all.a_stride, row, 0), all.a_stride, b, panel,
                                     all.depth, all.c + row * all.c_stride + panel * kPanel,
                                     all.c_stride,
                                     all.factors == nullptr ? nullptr : all.factors + row);
  }
  if constexpr (kPanels > 1) product_of<V, kRows, 1>(all, b, row, panel, end);
}

// The rows in groups of at most six, as even as can be: a group of one or two alone would leave
// most of the pipeline empty, which is why small groups take several panels at once.
template <typename V, typename Left, typename Columns>
SPARROW_INLINE void product_of_panels(const Factors<Left>& all, const Columns& b, int64_t panel,
                                      int64_t end) {
  int64_t groups = (all.rows + 5) / 6;
  for (int64_t row = 0; groups > 0; --groups) {
    const int64_t count = (all.rows - row + groups - 1) / groups;
    switch (count) {
      case 6:
        product_of<V, 6, 1>(all, b, row, panel, end);
        break;
      case 5:
        product_of<V, 5, 1>(all, b, row, panel, end);
        break;
      case 4:
        product_of<V, 4, 1>(all, b, row, panel, end);
        break;
      case 3:
        product_of<V, 3, 2>(all, b, row, panel, end);
        break;
      case 2:
        product_of<V, 2, 2>(all, b, row, panel, end);
        break;
      default:
        product_of<V, 1, 4>(all, b, row, panel, end);
        break;
    }
    row += count;
  }
}

inline constexpr int64_t kFewRows = 12;

// Few rows go over all panels in turn. Of many, all take a panel before the next one is touched,
// which then stays in the L1.
template <typename V>
SPARROW_INLINE void scores_of(const Factors<>& all, const PackedKeys& keys) {
  if (all.rows <= kFewRows) return product_of_panels<V>(all, keys, 0, all.panels);
  for (int64_t panel = 0; panel < all.panels; ++panel) {
    product_of_panels<V>(all, keys, panel, panel + 1);
  }
}

// `packed` holds one panel: its rows lie far apart, and would fall on the same few sets of the L1.
template <typename V>
SPARROW_INLINE void add_values(const Factors<>& all, const float* const* values, float* packed) {
  if (all.rows <= kFewRows) return product_of_panels<V>(all, ValueRows{values}, 0, all.panels);
  for (int64_t panel = 0; panel < all.panels; ++panel) {
    for (int64_t k = 0; k < all.depth; ++k) {
      for (int v = 0; v < kPanel; v += V::kLanes) {
        V::store(V::load(values[k] + panel * kPanel + v), packed + k * kPanel + v);
      }
    }
    // Of one panel: at(k, panel) must find it at the front.
    const PackedKeys front{packed - panel * all.depth * kPanel, all.depth};
    product_of_panels<V>(all, front, panel, panel + 1);
  }
}

// The rows of the tile that comes next, or none. They are asked for a few lanes at a time between
// the keys of this one: all at once they would take turns with nothing but one another.
template <typename Element>
struct RowsAhead {
  const Element* const* keys = nullptr;
  const Element* const* values = nullptr;

  SPARROW_INLINE void ask_for(int64_t lane, int64_t count, int64_t head_dim) const {
    if (keys == nullptr) return;
    for (int64_t i = lane; i < lane + count; ++i) {
      fetch(keys[i], head_dim);
      fetch(values[i], head_dim);
    }
  }
};

// The keys of a tile's lanes, turned; lanes up to whole panels.
template <typename V, typename Element>
SPARROW_INLINE void turn_keys(const Element* const* keys, int64_t lanes, int64_t head_dim,
                              float* turned, const RowsAhead<Element>& ahead = {}) {
  for (int64_t lane = 0; lane < lanes; lane += V::kLanes) {
    ahead.ask_for(lane, V::kLanes, head_dim);
    float* columns = turned + lane / kPanel * head_dim * kPanel + lane % kPanel;
    int64_t d = 0;
    for (; d + V::kLanes <= head_dim; d += V::kLanes) {
      typename V::Floats square[V::kLanes];
      for (int i = 0; i < V::kLanes; ++i) square[i] = V::load(keys[lane + i] + d);
      V::transpose(square);
      for (int i = 0; i < V::kLanes; ++i) V::store(square[i], columns + (d + i) * kPanel);
    }
    for (; d < head_dim; ++d) {
      for (int i = 0; i < V::kLanes; ++i) columns[d * kPanel + i] = to_float(keys[lane + i][d]);
    }
  }
}

// Scores of rows that are too few to turn the keys for: products along the head dim.
template <typename V, typename Element>
SPARROW_INLINE void scores_along(const RowsAtWork& rows, const Element* const* keys, int64_t lanes,
                                 float* widened, const RowsAhead<Element>& ahead) {
  const int64_t whole = rows.head_dim / V::kLanes * V::kLanes;
  for (int64_t lane = 0; lane < lanes; lane += V::kLanes) {
    ahead.ask_for(lane, V::kLanes, rows.head_dim);
    const float* wide[V::kLanes];
    for (int i = 0; i < V::kLanes; ++i) {
      if constexpr (std::is_same_v<Element, float>) {
        wide[i] = keys[lane + i];
      } else {
        float* to = widened + i * rows.head_dim;
        for (int64_t d = 0; d < rows.head_dim; ++d) to[d] = to_float(keys[lane + i][d]);
        wide[i] = to;
      }
    }
    for (int64_t row = 0; row < rows.count; ++row) {
      const float* query = rows.query + row * rows.head_dim;
      typename V::Floats products[V::kLanes] = {};
      for (int64_t d = 0; d < whole; d += V::kLanes) {
        const typename V::Floats factors = V::load(query + d);
        for (int i = 0; i < V::kLanes; ++i) products[i] += factors * V::load(wide[i] + d);
      }
      float* scores = rows.scores + row * kTile + lane;
      V::store(V::sums(products), scores);
      for (int64_t d = whole; d < rows.head_dim; ++d) {
        for (int i = 0; i < V::kLanes; ++i) scores[i] += query[d] * wide[i][d];
      }
    }
  }
}

// Scores of one row into weights; how `out` and `total` so far are to be scaled is returned.
// `bias`, if any, is of the lanes.
template <typename V>
SPARROW_INLINE float weigh(float* scores, int64_t lanes, uint64_t mask, float scale, float& highest,
                           float& total, const float* bias = nullptr) {
  constexpr float kNothing = -__builtin_huge_valf();
  typename V::Floats most = V::all(kNothing);
  for (int64_t lane = 0; lane < lanes; lane += V::kLanes) {
    typename V::Floats s = V::load(scores + lane) * scale;
    if (bias != nullptr) s += V::load(bias + lane);
    const uint64_t own = mask >> lane;
    constexpr uint64_t kAll = (uint64_t{1} << V::kLanes) - 1;
    if ((own & kAll) != kAll) s = V::select(own, s, V::all(kNothing));
    most = V::larger(most, s);
    V::store(s, scores + lane);
  }
  const float before = highest;
  const float most_of_tile = V::largest(most);
  highest = before > most_of_tile ? before : most_of_tile;
  const float base = highest == kNothing ? 0.0f : highest;
  typename V::Floats sum = {};
  for (int64_t lane = 0; lane < lanes; lane += V::kLanes) {
    const typename V::Floats p = V::exp_of_nonpositive(V::load(scores + lane) - base);
    sum += p;
    V::store(p, scores + lane);
  }
  const float factor = highest == before ? 1.0f : V::exp_of_nonpositive(V::all(before - base))[0];
  total = total * factor + V::sum(sum);
  return factor;
}

// Whether turning the keys costs more than it saves. Where bits must not depend on the number of
// rows, keys are always turned.
inline bool are_few(int64_t rows, int64_t head_dim) { return 16 * rows < head_dim; }

// One tile for all rows at work. `mask_of(row)`: the lanes that it sees. `turned` has room for a
// tile of keys. `bias`, if any, is of the lanes, up to whole panels.
template <typename V, typename Element, typename MaskOf>
SPARROW_INLINE void attend_tile(const RowsAtWork& rows, const Element* const* keys,
                                const float* const* values, int64_t lanes, float scale,
                                bool turns_keys, const MaskOf& mask_of, float* turned,
                                const float* bias = nullptr, const RowsAhead<Element>& ahead = {}) {
  const int64_t whole = (lanes + kPanel - 1) / kPanel * kPanel;
  if (turns_keys) {
    turn_keys<V>(keys, whole, rows.head_dim, turned, ahead);
    scores_of<V>({rows.query, rows.head_dim, rows.head_dim, whole / kPanel, rows.scores, kTile,
                  nullptr, rows.count},
                 {turned, rows.head_dim});
  } else {
    scores_along<V>(rows, keys, whole, turned, ahead);
  }
  for (int64_t row = 0; row < rows.count; ++row) {
    rows.factors[row] = weigh<V>(rows.scores + row * kTile, whole, mask_of(row), scale,
                                 rows.highest[row], rows.total[row], bias);
  }
  add_values<V>({rows.scores, kTile, lanes, rows.width / kPanel, rows.out, rows.width, rows.factors,
                 rows.count},
                values, turned);
}

}  // namespace sparrow::cpu
