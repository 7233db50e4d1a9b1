// The caches of all layers, as an op is handed them: as lists, checked at every call, or bound once
// and for all, under a number.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "bindings/arguments.h"
#include "kernels/gather/call.h"

namespace sparrow::bindings {

using OptionalTensor = std::optional<Tensor>;

// `of` points to `tensors`; the requests are yet to be set.
struct Caches {
  std::vector<char*> tensors;
  CacheBatch of;
  int64_t num_layers = 0;

  Caches() = default;
  // Keys and values of every layer share shape, strides and dtype. None at all: a cache with
  // nothing to move.
  Caches(const Arguments& arguments, const TensorList& keys, const TensorList& values);
  Caches(const Caches&) = delete;
  Caches& operator=(const Caches&) = delete;

  // The blocks of a cache are the requests', or pages that a table leads to.
  CacheBatch for_requests(const Arguments& arguments, int64_t batch,
                          const OptionalTensor& block_table) const;

  // Whether the bytes from a cache's first to its last meet those of `other`.
  bool may_overlap(const Tensor& other) const;
};

// What keeps the lists of layers of a step, with what has been found about them.
class BoundCaches {
 public:
  BoundCaches(TensorList keys, TensorList values);

  // As they are now: a tensor that was resized or set to other memory is checked anew, into `own`.
  const Caches& now(const Arguments& arguments, std::unique_ptr<Caches>* own) const;

 private:
  bool are_as_bound(const Arguments& arguments) const;

  TensorList keys_, values_;
  std::array<int64_t, 4> sizes_, strides_;
  Caches caches_;
};

// Those under a number of bind_caches; an unknown number is refused.
std::shared_ptr<const BoundCaches> bound_caches(const Arguments& arguments, int64_t number);

// Bound caches while a call uses them.
class UsedCaches {
 public:
  UsedCaches(const Arguments& arguments, int64_t number)
      : bound_(bound_caches(arguments, number)), now_(bound_->now(arguments, &own_)) {}

  const Caches& now() const { return now_; }
  bool have_moved() const { return own_ != nullptr; }  // may share memory since

 private:
  std::shared_ptr<const BoundCaches> bound_;
  std::unique_ptr<Caches> own_;
  const Caches& now_;
};

// The pages of a table [B, pages] over a cache of so many blocks of so many rows.
Pages pages_of(const Arguments& arguments, const OptionalTensor& block_table, int64_t batch,
               int64_t num_blocks, int64_t block_size);

// [B], or [L, B] for lengths of a layer, which share no memory where they are `advanced`.
PrefixLens prefix_lens_of(const Arguments& arguments, const Tensor& prefix_lens, int64_t batch,
                          int64_t num_layers, bool advanced);

}  // namespace sparrow::bindings
