// What every kernel header shares: the host/device mark and strided rows.
#pragma once

#include <cstdint>

// The same function decides on a CPU and on a GPU; for a plain C++ compiler the mark is nothing.
#if defined(__CUDACC__)
#define SPARROW_HD __host__ __device__
#else
#define SPARROW_HD
#endif

namespace sparrow {

// The rows of a tensor whose last dim is contiguous: row r starts `stride` elements after row r
// - 1.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;

  SPARROW_HD T* operator[](int64_t row) const { return data + row * stride; }
};

SPARROW_HD inline int64_t clamp(int64_t value, int64_t low, int64_t high) {
  return value < low ? low : (value > high ? high : value);
}

}  // namespace sparrow
