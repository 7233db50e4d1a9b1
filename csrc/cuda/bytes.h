// Rows as bytes: how wide an access their addresses allow, and copies of that width.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace sparrow::cuda {

// The widest access, of 16, 4 or 1 bytes, that every address handed to it allows.
class Width {
 public:
  void add(const void* address) { bits_ |= reinterpret_cast<uintptr_t>(address); }
  void add(int64_t bytes) { bits_ |= static_cast<uintptr_t>(bytes); }
  // A stride over a dim of one element is never taken, whatever it says.
  void add_stride(int64_t bytes, int64_t size) {
    if (size > 1) add(bytes);
  }
  int bytes() const { return bits_ % 16 == 0 ? 16 : bits_ % 4 == 0 ? 4 : 1; }

 private:
  uintptr_t bits_ = 0;
};

template <int kBytes>
struct Access;
template <>
struct Access<16> {
  using Type = uint4;
};
template <>
struct Access<4> {
  using Type = uint32_t;
};
template <>
struct Access<1> {
  using Type = uint8_t;
};

// Calls body(Access<width>{}).
template <typename Body>
__device__ void with_access(int width, const Body& body) {
  if (width == 16) {
    body(Access<16>{});
  } else if (width == 4) {
    body(Access<4>{});
  } else {
    body(Access<1>{});
  }
}

inline constexpr int kTileThreads = 128;
inline constexpr int kTileLoads = 4;  // of a thread, all in flight at once

// Tiles of a row that a block of kTileThreads copies one at a time.
inline int64_t tiles_of(int64_t row_bytes, int width) {
  const int64_t tile = int64_t{width} * kTileThreads * kTileLoads;
  return (row_bytes + tile - 1) / tile;
}

// Copies one tile of a row, or writes zeros where `from` is null.
template <int kBytes>
__device__ void copy_tile(Access<kBytes>, const char* from, char* to, int64_t row_bytes,
                          int64_t tile) {
  using Type = typename Access<kBytes>::Type;
  const int64_t count = row_bytes / kBytes;
  const int64_t first = tile * (kTileThreads * kTileLoads) + threadIdx.x;
  Type values[kTileLoads];
#pragma unroll
  for (int i = 0; i < kTileLoads; ++i) {
    values[i] = Type{};
    const int64_t at = first + i * kTileThreads;
    if (from != nullptr && at < count) values[i] = reinterpret_cast<const Type*>(from)[at];
  }
#pragma unroll
  for (int i = 0; i < kTileLoads; ++i) {
    const int64_t at = first + i * kTileThreads;
    if (at < count) reinterpret_cast<Type*>(to)[at] = values[i];
  }
}

}  // namespace sparrow::cuda
