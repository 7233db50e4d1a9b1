// In which block of a cache, and in which row of it, a slot of a request lies.
//
//   without a table    block b, row slot                                        of [B, Hkv, N, D]
//   with a table       block table[b, slot / size], row slot % size     of [pages, Hkv, size, D]
//
// A slot outside of the request's own, or in a page that the cache does not have, lies nowhere: it
// is neither read nor written.
#pragma once

#include "kernels/common.h"

namespace sparrow {

struct Place {
  int64_t block;  // -1: nowhere
  int64_t row;
};

struct Pages {
  Rows<const int32_t> table{nullptr, 0};  // [B, num_pages]; null: every request has its own block
  int64_t num_pages = 0;                  // of one request
  int64_t num_blocks = 0;                 // of the cache
  int64_t block_size = 0;                 // at most INT32_MAX

  // N, the slots of a request.
  SPARROW_HD int64_t capacity() const {
    return table.data == nullptr ? block_size : num_pages * block_size;
  }

  SPARROW_HD Place place(int64_t b, int64_t slot) const {
    if (slot < 0 || slot >= capacity()) return {-1, 0};
    if (table.data == nullptr) return {b, slot};
    // Both below 2^32, where a division is a third of what it is for 64 bits on a GPU.
    const uint32_t at = static_cast<uint32_t>(slot), size = static_cast<uint32_t>(block_size);
    const int64_t page = table[b][at / size];
    return page >= 0 && page < num_blocks ? Place{page, at % size} : Place{-1, 0};
  }
};

// The rows of one head of a cache; strides in bytes.
struct CacheRows {
  Pages pages;
  int64_t block_stride = 0, slot_stride = 0;

  // Bytes from the head's first row to a slot's, -1 for nowhere.
  SPARROW_HD int64_t offset(int64_t b, int64_t slot) const {
    const Place at = pages.place(b, slot);
    return at.block < 0 ? -1 : at.block * block_stride + at.row * slot_stride;
  }
};

}  // namespace sparrow
