#include "emulation/shadow.h"

#include <algorithm>
#include <iterator>

namespace sparrow::emulation {

void Shadow::begin_launch() {
  ++launch_;
  readers_.clear();
  unused_readers_.clear();
}

Shadow::Page& Shadow::page_of(uintptr_t address) {
  const uintptr_t number = address / kPage;
  auto& recent = recent_[number % std::size(recent_)];
  if (recent.second == nullptr || recent.first != number) {
    auto& page = pages_[number];
    if (page == nullptr) page = std::make_unique<Page>();
    recent = {number, page.get()};
  }
  Page& page = *recent.second;
  if (page.launch != launch_) {
    page.launch = launch_;
    page.grain = 4;
    page.cells.assign(kPage / page.grain, Cell{});
  }
  return page;
}

void Shadow::refine(Page& page) {
  std::vector<Cell> fine;
  fine.reserve(kPage);
  for (const Cell& cell : page.cells) {
    fine.insert(fine.end(), page.grain, cell);
    if (cell.read != kBySeveral) continue;
    for (size_t i = 1; i < page.grain; ++i) {
      const uint32_t copy = new_readers();
      readers_[copy] = readers_[cell.reader];
      fine[fine.size() - i].reader = copy;
    }
  }
  page.cells = std::move(fine);
  page.grain = 1;
}

template <typename Visit>
void Shadow::each_cell(const void* memory, size_t bytes, const Visit& visit) {
  uintptr_t address = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t end = address + bytes;
  while (address < end) {
    Page& page = page_of(address);
    const uintptr_t stop = std::min(end, (address / kPage + 1) * kPage);
    if (page.grain > 1 && (address % page.grain != 0 || stop % page.grain != 0)) refine(page);
    for (; address < stop; address += page.grain) {
      if (!visit(page.cells[address % kPage / page.grain])) return;
    }
  }
}

void Shadow::begin(const void* memory, size_t bytes, Actor by, Time time) {
  each_cell(memory, bytes, [&](Cell& cell) {
    forget_readers(cell);
    cell = {};
    cell.writer = by;
    cell.written = time;
    return true;
  });
}

uint32_t Shadow::new_readers() {
  if (!unused_readers_.empty()) {
    const uint32_t unused = unused_readers_.back();
    unused_readers_.pop_back();
    return unused;
  }
  readers_.emplace_back();
  return static_cast<uint32_t>(readers_.size() - 1);
}

void Shadow::forget_readers(Cell& cell) {
  if (cell.read == kBySeveral) unused_readers_.push_back(cell.reader);
  cell.read = 0;
}

void Shadow::add_reader(Cell& cell, Actor by, Time time) {
  if (cell.read == 0 || (cell.reader == by.id && cell.read != kBySeveral)) {
    cell.reader = by.id;
    cell.read = time;
    return;
  }
  if (cell.read != kBySeveral) {
    const uint32_t several = new_readers();
    readers_[several].count = 1;
    readers_[several].who[0] = {cell.reader};
    readers_[several].when[0] = cell.read;
    cell.reader = several;
    cell.read = kBySeveral;
  }
  Readers& readers = readers_[cell.reader];
  Actor* const end = readers.who + readers.count;
  Actor* place = std::find(readers.who, end, by);
  if (place == end && readers.count == kMostReaders) {
    place = std::find_if(readers.who + 1, end,
                         [&](const Actor& reader) { return reader.block() == by.block(); });
    if (place == end) place = readers.who + 1 + time % (kMostReaders - 1);
  } else if (place == end) {
    ++readers.count;
  }
  *place = by;
  readers.when[place - readers.who] = time;
}

template <typename Wanted>
std::optional<Actor> Shadow::find_reader(const Cell& cell, const Wanted& wanted) const {
  if (cell.read == 0) return std::nullopt;
  if (cell.read != kBySeveral) {
    const Actor reader{cell.reader};
    return wanted(reader, cell.read) ? std::optional(reader) : std::nullopt;
  }
  const Readers& readers = readers_[cell.reader];
  for (uint32_t i = 0; i < readers.count; ++i) {
    if (wanted(readers.who[i], readers.when[i])) return readers.who[i];
  }
  return std::nullopt;
}

bool Shadow::touch(const Order& order, Actor thread, Actor by, Cell& cell, Access kind) {
  const bool are_atomic = kind == Access::kAtomic && cell.is_atomic;
  if (cell.written != 0 && !are_atomic && !order.knows(thread, cell.writer, cell.written)) {
    race_ = {cell.writer, true};
    return false;
  }
  if (kind == Access::kRead) {
    add_reader(cell, by, order.now());
    return true;
  }
  const auto unknown = find_reader(
      cell, [&](Actor reader, Time time) { return !order.knows(thread, reader, time); });
  if (unknown) {
    race_ = {*unknown, false};
    return false;
  }
  forget_readers(cell);
  cell.writer = by;
  cell.written = order.now();
  cell.is_atomic = kind == Access::kAtomic;
  return true;
}

std::optional<Race> Shadow::access(const Order& order, Actor thread, Actor by, const void* memory,
                                   size_t bytes, Access kind) {
  bool knows = true;
  each_cell(memory, bytes, [&](Cell& cell) {
    knows = touch(order, thread, by, cell, kind);
    return knows;
  });
  return knows ? std::nullopt : std::optional(race_);
}

std::optional<Race> Shadow::unknown_at_end(const Order& order, uint32_t block, const void* memory,
                                           size_t bytes) {
  std::optional<Race> race;
  const auto is_unknown = [&](Actor by, Time time) {
    return by.block() != block && !order.block_knows(block, by, time);
  };
  each_cell(memory, bytes, [&](Cell& cell) {
    if (cell.written != 0 && is_unknown(cell.writer, cell.written)) {
      race = Race{cell.writer, true};
    } else if (const auto reader = find_reader(cell, is_unknown)) {
      race = Race{*reader, false};
    }
    return !race.has_value();
  });
  return race;
}

}  // namespace sparrow::emulation
