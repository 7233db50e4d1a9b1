#include "emulation/shadow.h"

#include <algorithm>
#include <iterator>

namespace sparrow::emulation {
namespace {

// A cell forgets readers past this many, those of the newest one's own block first.
constexpr size_t kMostReaders = 32;

}  // namespace

void Shadow::begin_launch() {
  ++launch_;
  readers_.clear();
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
  for (const Cell& cell : page.cells) fine.insert(fine.end(), page.grain, cell);
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
    cell = {};
    cell.writer = by;
    cell.written = time;
    return true;
  });
}

void Shadow::add_reader(Cell& cell, Actor by, Time time) {
  if (cell.read == 0 || cell.reader == by) {
    cell.reader = by;
    cell.read = time;
    return;
  }
  if (cell.more == 0) {
    readers_.emplace_back();
    cell.more = static_cast<uint32_t>(readers_.size());
  }
  Readers& readers = readers_[cell.more - 1];
  auto place = std::find_if(readers.begin(), readers.end(),
                            [&](const auto& reader) { return reader.first == by; });
  if (place == readers.end() && readers.size() == kMostReaders) {
    place = std::find_if(readers.begin(), readers.end(),
                         [&](const auto& reader) { return reader.first.block() == by.block(); });
    if (place == readers.end()) place = readers.begin() + time % kMostReaders;
  }
  if (place == readers.end()) {
    readers.emplace_back(by, time);
  } else {
    *place = {by, time};
  }
}

std::optional<Race> Shadow::touch(const Order& order, Actor thread, Actor by, Cell& cell,
                                  Access kind) {
  const bool are_atomic = kind == Access::kAtomic && cell.is_atomic;
  if (cell.written != 0 && !are_atomic && !order.knows(thread, cell.writer, cell.written)) {
    return Race{cell.writer, true};
  }
  if (kind == Access::kRead) {
    add_reader(cell, by, order.now());
    return std::nullopt;
  }
  if (cell.read != 0 && !order.knows(thread, cell.reader, cell.read)) {
    return Race{cell.reader, false};
  }
  if (cell.more != 0) {
    for (const auto& [reader, time] : readers_[cell.more - 1]) {
      if (!order.knows(thread, reader, time)) return Race{reader, false};
    }
    readers_[cell.more - 1].clear();
  }
  cell.read = 0;
  cell.writer = by;
  cell.written = order.now();
  cell.is_atomic = kind == Access::kAtomic;
  return std::nullopt;
}

std::optional<Race> Shadow::access(const Order& order, Actor thread, Actor by, const void* memory,
                                   size_t bytes, Access kind) {
  std::optional<Race> race;
  each_cell(memory, bytes, [&](Cell& cell) {
    race = touch(order, thread, by, cell, kind);
    return !race.has_value();
  });
  return race;
}

std::optional<Race> Shadow::unknown_at_end(const Order& order, uint32_t block, const void* memory,
                                           size_t bytes) {
  std::optional<Race> race;
  const auto check = [&](Actor by, Time time, bool wrote) {
    if (time != 0 && by.block() != block && !race && !order.block_knows(block, by, time)) {
      race = Race{by, wrote};
    }
  };
  each_cell(memory, bytes, [&](Cell& cell) {
    check(cell.writer, cell.written, true);
    check(cell.reader, cell.read, false);
    if (cell.more != 0) {
      for (const auto& [reader, time] : readers_[cell.more - 1]) check(reader, time, false);
    }
    return !race.has_value();
  });
  return race;
}

}  // namespace sparrow::emulation
