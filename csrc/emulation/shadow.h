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
  // Past this many a cell forgets readers, those of the newest one's own block first, but never
  // the first one.
  static constexpr uint32_t kMostReaders = 33;

  // Of several. Actors apart from times: a search looks at nothing else.
  struct Readers {
    uint32_t count = 0;
    Actor who[kMostReaders];
    Time when[kMostReaders];
  };
  // Four to a line of the cache: most of the emulator's time is waiting for them.
  struct alignas(16) Cell {
    Actor writer;
    Time written : 31 = 0;
    uint32_t is_atomic : 1 = 0;
    uint32_t reader = 0;  // its id, or which of readers_
    Time read = 0;        // kBySeveral: there are several
  };
  static constexpr Time kBySeveral = ~Time{0};
  struct Page {
    uint64_t launch = 0;
    uintptr_t grain = 4;  // bytes a cell; 1 once anyone touched less
    std::vector<Cell> cells;
  };

  Page& page_of(uintptr_t address);
  void refine(Page& page);
  // Whether `thread` knows of what it meets; else who it met is in race_.
  bool touch(const Order& order, Actor thread, Actor by, Cell& cell, Access kind);
  void add_reader(Cell& cell, Actor by, Time time);
  void forget_readers(Cell& cell);
  uint32_t new_readers();
  // The first reader for whom `wanted(actor, time)`.
  template <typename Wanted>
  std::optional<Actor> find_reader(const Cell& cell, const Wanted& wanted) const;
  template <typename Visit>
  void each_cell(const void* memory, size_t bytes, const Visit& visit);

  uint64_t launch_ = 0;
  Race race_;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  std::pair<uintptr_t, Page*> recent_[256] = {};
  std::vector<Readers> readers_;
  std::vector<uint32_t> unused_readers_;  // of these
};

}  // namespace sparrow::emulation
