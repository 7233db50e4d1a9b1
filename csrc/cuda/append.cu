// Appends new rows of keys and values to the cache, with the rotary embedding or as they are.
//
//   slot       = prefix_len + row      in the request's own block of the cache or in its page;
//                                      rows outside are not written
//   rotated[j] = x[j] * cos[j] - x[j + D/2] * sin[j]   for j < D/2
//   rotated[j] = x[j] * cos[j] + x[j - D/2] * sin[j]   for j >= D/2
//
// Grid: (heads of all inputs * B * tiles of a head), 128 threads. A thread owns one piece of a row:
// to append, 16 bytes; to rotate, 16 bytes of the lower half and the 16 bytes of the upper half
// that turn with them, with all of its loads in flight at once. Query, key and value heads stand
// side by side in the grid, so that one launch does it all.
// Bytes: every row read and written once, cos and sin once a head (from L2 after the first);
// bound by latency at the size of a tree.
// Relies on nothing about prefix_lens. Rows that 16-byte accesses do not fit go by single elements.
#include <initializer_list>

#include "cuda/append.h"
#include "cuda/bytes.h"
#include "cuda/launch.h"
#include "kernels/attention/append.h"

namespace sparrow::cuda {
namespace {

constexpr int kThreads = 128;

// What a block works on: a tile of the pieces of one head of one request.
struct Piece {
  int64_t b;
  uint32_t head;
  uint32_t row, piece;
  bool exists;
};

__device__ Piece piece_of(uint32_t heads, uint32_t num_rows, uint32_t pieces_a_row,
                          uint32_t tiles) {
  const uint32_t plane = blockIdx.x / tiles;
  const uint32_t item = blockIdx.x % tiles * kThreads + threadIdx.x;
  return {plane / heads, plane % heads, item / pieces_a_row, item % pieces_a_row,
          item < num_rows * pieces_a_row};
}

int64_t tiles_for(int64_t num_rows, int64_t pieces_a_row) {
  const int64_t items = num_rows * pieces_a_row;
  if (items > INT32_MAX) check(cudaErrorInvalidConfiguration, "append: rows * D of a head");
  return (items + kThreads - 1) / kThreads;
}

template <typename T>
void add_rows(Width& width, const HeadRows<T>& rows, int64_t batch, int64_t heads,
              int64_t num_rows) {
  constexpr int64_t kSize = sizeof(T);
  width.add(rows.data);
  width.add_stride(rows.batch_stride * kSize, batch);
  width.add_stride(rows.head_stride * kSize, heads);
  width.add_stride(rows.row_stride * kSize, num_rows);
}

// --- as they are ---------------------------------------------------------------------------------
template <int kBytes>
__global__ void __launch_bounds__(kThreads)
    append_kernel(const AppendCache call, uint32_t pieces_a_row, uint32_t tiles) {
  using Type = typename Access<kBytes>::Type;
  const uint32_t heads = static_cast<uint32_t>(call.heads);
  const Piece at = piece_of(2 * heads, static_cast<uint32_t>(call.num_rows), pieces_a_row, tiles);
  if (!at.exists) return;
  const bool is_key = at.head < heads;
  const uint32_t head = is_key ? at.head : at.head - heads;
  const HeadRows<const char>& from = is_key ? call.key : call.value;
  const HeadRows<char>& cache = is_key ? call.key_cache : call.value_cache;
  const Type piece = reinterpret_cast<const Type*>(from.row(at.b, head, at.row))[at.piece];
  const Place to = call.pages.place(at.b, int64_t{call.prefix_lens[at.b]} + at.row);
  if (to.block >= 0) reinterpret_cast<Type*>(cache.row(to.block, head, to.row))[at.piece] = piece;
}

template <int kBytes>
void launch_append(const AppendCache& call, Stream stream) {
  const int64_t pieces = call.row_bytes / kBytes;
  const int64_t tiles = tiles_for(call.num_rows, pieces);
  launch("append_cache_", append_kernel<kBytes>,
         {.blocks = tiles * call.batch * 2 * call.heads, .threads = kThreads}, stream, call,
         static_cast<uint32_t>(pieces), static_cast<uint32_t>(tiles));
}

// --- rotated -------------------------------------------------------------------------------------
template <typename Element, int kCount>
struct alignas(sizeof(Element) * kCount < 16 ? sizeof(Element) * kCount : 16) Pack {
  Element at[kCount];
};

// Elements [begin, begin + kHalf) and [half + begin, ...) of one row.
template <typename Element, int kHalf>
struct Halves {
  Element at[2 * kHalf];

  __device__ void load(const Element* row, int64_t begin, int64_t half) {
    const auto low = *reinterpret_cast<const Pack<Element, kHalf>*>(row + begin);
    const auto high = *reinterpret_cast<const Pack<Element, kHalf>*>(row + half + begin);
#pragma unroll
    for (int j = 0; j < kHalf; ++j) {
      at[j] = low.at[j];
      at[j + kHalf] = high.at[j];
    }
  }
  __device__ void store(Element* row, int64_t begin, int64_t half) const {
    store_pack(row + begin, at);
    store_pack(row + half + begin, at + kHalf);
  }

 private:
  // An intrinsic, since the compiler splits a plain store of this into single words.
  __device__ static void store_pack(Element* to, const Element* from) {
    if constexpr (sizeof(Element) * kHalf == 16) {
      uint4 words;
      memcpy(&words, from, sizeof(words));
      __stwb(reinterpret_cast<uint4*>(to), words);
    } else {
#pragma unroll
      for (int j = 0; j < kHalf; ++j) to[j] = from[j];
    }
  }
};

template <typename Element, typename Angle, int kHalf>
__global__ void __launch_bounds__(kThreads)
    rotate_append_kernel(const RotateAppend<Element, Angle> call, uint32_t pieces_a_row,
                         uint32_t tiles) {
  const uint32_t query_heads = static_cast<uint32_t>(call.query_heads);
  const uint32_t heads = static_cast<uint32_t>(call.heads);
  const Piece at =
      piece_of(query_heads + 2 * heads, static_cast<uint32_t>(call.num_rows), pieces_a_row, tiles);
  if (!at.exists) return;
  const int64_t half = call.head_dim / 2, begin = int64_t{at.piece} * kHalf;

  const bool is_query = at.head < query_heads;
  const bool is_value = at.head >= query_heads + heads;
  const uint32_t head = is_query ? at.head : at.head - query_heads - (is_value ? heads : 0);
  const HeadRows<const Element>& from = is_query ? call.query : is_value ? call.value : call.key;
  const HeadRows<Element>& to = is_query   ? call.query_out
                                : is_value ? call.value_cache
                                           : call.key_cache;
  const Place place = is_query ? Place{at.b, at.row}
                               : call.pages.place(at.b, int64_t{call.prefix_lens[at.b]} + at.row);

  Halves<Element, kHalf> row;
  row.load(from.row(at.b, head, at.row), begin, half);
  if (!is_value) {
    Halves<Angle, kHalf> cos, sin;
    cos.load(call.cos.row(at.b, at.row), begin, half);
    sin.load(call.sin.row(at.b, at.row), begin, half);
    Halves<Element, kHalf> rotated;
#pragma unroll
    for (int j = 0; j < kHalf; ++j) rotate_pair(row.at, cos.at, sin.at, kHalf, j, rotated.at);
    row = rotated;
  }
  if (place.block >= 0) row.store(to.row(place.block, head, place.row), begin, half);
}

template <typename Element, typename Angle>
bool fits_packs(const RotateAppend<Element, Angle>& call) {
  Width width;
  width.add(call.head_dim / 2 * static_cast<int64_t>(sizeof(Element)));
  add_rows(width, call.query, call.batch, call.query_heads, call.num_rows);
  add_rows(width, call.query_out, call.batch, call.query_heads, call.num_rows);
  add_rows(width, call.key, call.batch, call.heads, call.num_rows);
  add_rows(width, call.value, call.batch, call.heads, call.num_rows);
  add_rows(width, call.key_cache, call.pages.num_blocks, call.heads, call.pages.block_size);
  add_rows(width, call.value_cache, call.pages.num_blocks, call.heads, call.pages.block_size);
  for (const AngleRows<Angle>* angles : {&call.cos, &call.sin}) {
    constexpr int64_t kSize = sizeof(Angle);
    width.add(angles->rows.data);
    width.add_stride(angles->rows.stride * kSize, call.num_rows);
    width.add_stride(angles->batch_stride * kSize, call.batch);
  }
  return width.bytes() == 16;
}

template <typename Element, typename Angle, int kHalf>
void launch_rotate(const RotateAppend<Element, Angle>& call, Stream stream) {
  const int64_t pieces = call.head_dim / 2 / kHalf;
  const int64_t tiles = tiles_for(call.num_rows, pieces);
  launch("rotate_append_", rotate_append_kernel<Element, Angle, kHalf>,
         {.blocks = tiles * call.batch * (call.query_heads + 2 * call.heads), .threads = kThreads},
         stream, call, static_cast<uint32_t>(pieces), static_cast<uint32_t>(tiles));
}

}  // namespace

void append_cache(const AppendCache& call, Stream stream) {
  Width width;
  width.add(call.row_bytes);
  add_rows(width, call.key, call.batch, call.heads, call.num_rows);
  add_rows(width, call.value, call.batch, call.heads, call.num_rows);
  add_rows(width, call.key_cache, call.pages.num_blocks, call.heads, call.pages.block_size);
  add_rows(width, call.value_cache, call.pages.num_blocks, call.heads, call.pages.block_size);
  switch (width.bytes()) {
    case 16:
      return launch_append<16>(call, stream);
    case 4:
      return launch_append<4>(call, stream);
    default:
      return launch_append<1>(call, stream);
  }
}

template <typename Element, typename Angle>
void rotate_append(const RotateAppend<Element, Angle>& call, Stream stream) {
  constexpr int kHalf = 16 / sizeof(Element);
  if (fits_packs(call)) {
    launch_rotate<Element, Angle, kHalf>(call, stream);
  } else {
    launch_rotate<Element, Angle, 1>(call, stream);
  }
}

template void rotate_append(const RotateAppend<float, float>&, Stream);
template void rotate_append(const RotateAppend<Half, float>&, Stream);
template void rotate_append(const RotateAppend<Half, Half>&, Stream);
template void rotate_append(const RotateAppend<BFloat16, float>&, Stream);
template void rotate_append(const RotateAppend<BFloat16, BFloat16>&, Stream);

}  // namespace sparrow::cuda
