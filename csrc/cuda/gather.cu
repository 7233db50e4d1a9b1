// Gathers rows of several layers side by side.
//
//   out[b, a, l * H : (l + 1) * H] = states[l][b, index[b, a]]       zeros outside the rows
//
// Grid: (A * L * tiles of a row, B). A block copies one tile of one row, 8 KiB where addresses
// allow 16-byte accesses: every thread has four of them in flight, 16 blocks fill a multiprocessor.
// Bytes: 2 * B * A * L * H elements, and the index; bound by memory bandwidth.
// Relies on nothing about the values in `index`. More than 32 layers take several launches.
#include "cuda/gather.h"
#include "cuda/hidden.h"
#include "cuda/launch.h"

namespace sparrow::cuda {
namespace {

__global__ void __launch_bounds__(kTileThreads)
    gather_hidden_kernel(const __grid_constant__ HiddenLayers hidden, Rows<const int32_t> index) {
  const int64_t b = blockIdx.y;
  hidden.copy(b, blockIdx.x, [&](int64_t a) -> int64_t { return index[b][a]; });
}

}  // namespace

void gather_hidden(const GatherHidden& call, Stream stream) {
  for (size_t first = 0; first < call.states.layers.size(); first += kMostHiddenLayers) {
    const HiddenLayers hidden =
        hidden_layers(call.states, call.out, call.batch, call.num_gathered, first);
    launch("gather_hidden", gather_hidden_kernel,
           {.blocks = hidden.num_tiles(call.num_gathered),
            .threads = kTileThreads,
            .blocks_y = call.batch},
           stream, hidden, call.index);
  }
}

}  // namespace sparrow::cuda
