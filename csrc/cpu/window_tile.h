// The gradients of a block of rows and one tile of 64 slots, on vectors.
//
//   p = e^(scale * q K^T - lse)    ds = scale * p * (dO V^T - delta)    delta = sum(dO * out) -
//   d_lse dQ += ds K                     dK += ds^T q                         dV += p^T dO
//
// Rows of q, dO, p and ds lie an odd number of cache lines apart: going down a column of them then
// meets all sets of the L1, not the few that a power of two would.
#pragma once

#include "cpu/attention_tile.h"

namespace sparrow::cpu {

inline constexpr int64_t kTileStride = kTile + kPanel;  // of p and ds

// The rows of a block, all in floats; dims past the head's are 0.
struct RowGradients {
  int64_t count, head_dim, width, stride;
  const float *query, *grad;  // [count, stride]
  float* d_query;             // [count, stride], summed up over tiles; before the first one `out`
  const float* lse;           // [count], finite
  float* delta;               // [count]; before the first tile d_lse
  float *weights, *d_scores;  // [count, kTileStride]: p and ds
  const float* ones;          // [count or kTile]
};

struct TileGradients {
  const float* const* keys;
  const float* const* values;
  int64_t lanes;
  float scale;
  const uint64_t* masks;   // of each row
  float *d_key, *d_value;  // [lanes, width], added to
  float* turned;           // room for a tile of keys
};

// Each row's delta, by the additions that `dO V^T` makes: a row that sees one slot alone, whose
// value `out` is, then has a gradient of exactly 0.
template <typename V>
SPARROW_INLINE void start_rows(const RowGradients& rows) {
  constexpr int64_t kAtOnce = 8;
  for (int64_t first = 0; first < rows.count; first += kAtOnce) {
    const int64_t some = rows.count - first < kAtOnce ? rows.count - first : kAtOnce;
    float sums[kAtOnce] = {};
    for (int64_t d = 0; d < rows.head_dim; ++d) {
      for (int64_t i = 0; i < some; ++i) {
        const int64_t at = (first + i) * rows.stride + d;
        sums[i] += rows.grad[at] * rows.d_query[at];
      }
    }
    for (int64_t i = 0; i < some; ++i) rows.delta[first + i] = sums[i] - rows.delta[first + i];
  }
  for (int64_t i = 0; i < rows.count * rows.stride; ++i) rows.d_query[i] = 0.0f;
}

// Scores into p, dO V^T into ds, of one row.
template <typename V>
SPARROW_INLINE void weigh_gradients(float* weights, float* d_scores, int64_t lanes, uint64_t mask,
                                    float scale, float lse, float delta) {
  constexpr uint64_t kAll = (uint64_t{1} << V::kLanes) - 1;
  for (int64_t lane = 0; lane < lanes; lane += V::kLanes) {
    typename V::Floats p = V::exp_of_nonpositive(V::load(weights + lane) * scale - lse);
    typename V::Floats ds = p * (V::load(d_scores + lane) - delta) * scale;
    const uint64_t own = mask >> lane;
    if ((own & kAll) != kAll) {
      p = V::select(own, p, typename V::Floats{});
      ds = V::select(own, ds, typename V::Floats{});
    }
    V::store(p, weights + lane);
    V::store(ds, d_scores + lane);
  }
}

// c[lanes, width] += a^T b of `left` [count, kTileStride] and `right` [count, stride].
template <typename V>
SPARROW_INLINE void add_turned(const RowGradients& rows, const float* left, const float* right,
                               int64_t lanes, float* c) {
  const Factors<LeftColumns> all{left, kTileStride, rows.count, rows.width / kPanel,
                                 c,    rows.width,  rows.ones,  lanes};
  for (int64_t panel = 0; panel < all.panels; ++panel) {
    product_of_panels<V>(all, StridedRows{right, rows.stride}, panel, panel + 1);
  }
}

template <typename V>
SPARROW_INLINE void differentiate_tile(const RowGradients& rows, const TileGradients& tile) {
  const int64_t panels = (tile.lanes + kPanel - 1) / kPanel, whole = panels * kPanel;
  const PackedKeys turned{tile.turned, rows.head_dim};
  turn_keys<V>(tile.keys, whole, rows.head_dim, tile.turned);
  scores_of<V>({rows.query, rows.stride, rows.head_dim, panels, rows.weights, kTileStride, nullptr,
                rows.count},
               turned);
  turn_keys<V>(tile.values, whole, rows.head_dim, tile.turned);
  scores_of<V>({rows.grad, rows.stride, rows.head_dim, panels, rows.d_scores, kTileStride, nullptr,
                rows.count},
               turned);
  for (int64_t row = 0; row < rows.count; ++row) {
    weigh_gradients<V>(rows.weights + row * kTileStride, rows.d_scores + row * kTileStride, whole,
                       tile.masks[row], tile.scale, rows.lse[row], rows.delta[row]);
  }
  add_values<V>({rows.d_scores, kTileStride, tile.lanes, rows.width / kPanel, rows.d_query,
                 rows.stride, rows.ones, rows.count},
                tile.keys, tile.turned);
  add_turned<V>(rows, rows.d_scores, rows.query, tile.lanes, tile.d_key);
  add_turned<V>(rows, rows.weights, rows.grad, tile.lanes, tile.d_value);
}

}  // namespace sparrow::cpu
