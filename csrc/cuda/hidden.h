// Hidden states of several layers as a kernel takes them, and the copy of one row's tile.
#pragma once

#include <algorithm>

#include "cuda/bytes.h"
#include "kernels/gather/call.h"

namespace sparrow::cuda {

inline constexpr int kMostHiddenLayers = 32;  // in one launch's parameters

// Layers [first, first + num_layers) of a call, side by side in rows of `out`.
struct HiddenLayers {
  HiddenStates::Layer layers[kMostHiddenLayers];
  int num_layers;
  int width;         // of an access, in bytes
  int64_t num_rows;  // R
  int64_t row_bytes;
  int64_t tiles_a_row;
  HiddenOut out;

  // Blocks' worth of work for `rows` gathered rows of one request.
  int64_t num_tiles(int64_t rows) const { return rows * num_layers * tiles_a_row; }

  // Copies tile `tile` of request b; row_of(a) says which row goes to gathered row a.
  template <typename RowOf>
  __device__ void copy(int64_t b, uint32_t tile, const RowOf& row_of) const {
    const uint32_t tiles = static_cast<uint32_t>(tiles_a_row);
    const uint32_t layer = tile / tiles % static_cast<uint32_t>(num_layers);
    const int64_t a = tile / tiles / static_cast<uint32_t>(num_layers);
    const int64_t row = row_of(a);
    const HiddenStates::Layer& source = layers[layer];
    const char* from = row < 0 || row >= num_rows
                           ? nullptr
                           : source.data + b * source.batch_stride + row * source.row_stride;
    char* to = out.data + b * out.batch_stride + a * out.row_stride + layer * row_bytes;
    with_access(width, [&](auto access) { copy_tile(access, from, to, row_bytes, tile % tiles); });
  }
};

// The layers from `first` on that fit in one launch.
inline HiddenLayers hidden_layers(const HiddenStates& states, const HiddenOut& out, int64_t batch,
                                  int64_t num_gathered, size_t first) {
  HiddenLayers some = {};
  if (first >= states.layers.size()) return some;
  some.num_layers =
      static_cast<int>(std::min<size_t>(kMostHiddenLayers, states.layers.size() - first));
  some.num_rows = states.num_rows;
  some.row_bytes = states.row_bytes;
  some.out = out;
  some.out.data += static_cast<int64_t>(first) * states.row_bytes;
  Width width;
  width.add(out.data);
  width.add(states.row_bytes);
  width.add_stride(out.batch_stride, batch);
  width.add_stride(out.row_stride, num_gathered);
  for (int l = 0; l < some.num_layers; ++l) {
    const HiddenStates::Layer& layer = states.layers[first + l];
    some.layers[l] = layer;
    width.add(layer.data);
    width.add_stride(layer.batch_stride, batch);
    width.add_stride(layer.row_stride, states.num_rows);
  }
  some.width = width.bytes();
  some.tiles_a_row = tiles_of(states.row_bytes, some.width);
  return some;
}

}  // namespace sparrow::cuda
