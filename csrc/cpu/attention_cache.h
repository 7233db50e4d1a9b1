// Where the slots of one request lie, and what is added to their scores.
#pragma once

#include "cpu/clones.h"
#include "kernels/attention/tree_call.h"

namespace sparrow::cpu {

// A walk over slots of request `b`: into a cache of its own, or over the pages that its table
// names. Slots lie in [0, capacity).
class SlotWalk {
 public:
  SlotWalk(const BlockTable& table, int64_t b)
      : pages_(table.rows.data == nullptr ? nullptr : table.rows[b]),
        num_pages_(table.num_pages),
        page_size_(table.page_size),
        block_(b) {}

  bool is_paged() const { return pages_ != nullptr; }
  // Whether it lies in another page than the slot before.
  SPARROW_INLINE bool go_to(int64_t slot) {
    if (pages_ == nullptr) {
      row_ = slot;
      return false;
    }
    row_ = slot - first_;
    if (static_cast<uint64_t>(row_) < static_cast<uint64_t>(page_size_)) return false;
    place_ = row_ == page_size_ ? place_ + 1 : slot / page_size_;  // most walks go straight on
    first_ = place_ * page_size_;
    row_ = slot - first_;
    block_ = clamp(pages_[place_], 0, num_pages_ - 1);
    return true;
  }
  SPARROW_INLINE int64_t row() const { return row_; }
  // How many slots from this one on lie behind one another.
  SPARROW_INLINE int64_t run() const { return is_paged() ? page_size_ - row_ : INT64_MAX; }
  template <typename T>
  SPARROW_INLINE T* first_row(const HeadRows<T>& cache, int64_t head) const {
    return cache.row(block_, head, 0);
  }
  template <typename T>
  SPARROW_INLINE T* row(const HeadRows<T>& cache, int64_t head) const {
    return cache.row(block_, head, row_);
  }

 private:
  const int32_t* pages_;
  int64_t num_pages_, page_size_;
  int64_t block_;              // the request, or the page
  int64_t row_ = 0;            // in it
  int64_t place_ = 0;          // of the page in the table
  int64_t first_ = INT64_MAX;  // slot of the page's first row; no slot is behind it at first
};

// The biases of one request and KV head.
template <typename Element>
class BiasRow {
 public:
  BiasRow(const KeyBias<Element>& bias, int64_t b, int64_t head)
      : floats_(bias.floats.data == nullptr ? nullptr : bias.floats.row(b, head, 0)),
        elements_(bias.elements.data == nullptr ? nullptr : bias.elements.row(b, head, 0)) {}

  bool is_there() const { return floats_ != nullptr || elements_ != nullptr; }
  SPARROW_INLINE float at(int64_t slot) const {
    return floats_ != nullptr ? floats_[slot] : to_float(elements_[slot]);
  }

 private:
  const float* floats_;
  const Element* elements_;
};

}  // namespace sparrow::cpu
