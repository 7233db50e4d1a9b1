// Who last wrote and who has since read each piece of memory that a launch touches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "emulation/order.h"

namespace sparrow::emulation {

// An earlier access that this one should have known of.
struct Race {
  Actor other;
  bool other_wrote;
};

enum class Access { kRead, kWrite, kAtomic };

class Shadow {
 public:
  void begin_launch();

  // Memory that begins with `by` at `time`.
  void begin(const void* memory, size_t bytes, Actor by, Time time);

  // `thread` must know of what it meets; `by`, itself or a mailbox, is who others have to know of.
  std::optional<Race> access(const Order& order, Actor thread, Actor by, const void* memory,
                             size_t bytes, Access kind);

  // An access by another block to the memory of one that ends, which that one does not know of.
  std::optional<Race> unknown_at_end(const Order& order, uint32_t block, const void* memory,
                                     size_t bytes);

 private:
  static constexpr uintptr_t kPage = 4096;

  struct Cell {
    Actor writer, reader;
    Time written = 0, read = 0;
    uint32_t more : 31 = 0;  // other readers, less 1
    uint32_t is_atomic : 1 = 0;
  };
  struct Page {
    uint64_t launch = 0;
    uintptr_t grain = 4;  // bytes a cell; 1 once anyone touched less
    std::vector<Cell> cells;
  };
  using Readers = std::vector<std::pair<Actor, Time>>;

  Page& page_of(uintptr_t address);
  static void refine(Page& page);
  std::optional<Race> touch(const Order& order, Actor thread, Actor by, Cell& cell, Access kind);
  void add_reader(Cell& cell, Actor by, Time time);
  template <typename Visit>
  void each_cell(const void* memory, size_t bytes, const Visit& visit);

  uint64_t launch_ = 0;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  std::pair<uintptr_t, Page*> recent_[64] = {};
  std::vector<Readers> readers_;
};

}  // namespace sparrow::emulation
