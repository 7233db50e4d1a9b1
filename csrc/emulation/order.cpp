#include "emulation/order.h"

#include <algorithm>

namespace sparrow::emulation {
namespace {

void raise(Time& time, Time to) { time = std::max(time, to); }

template <typename Times>
Time found(const Times& times, uint32_t key) {
  const auto entry = times.find(key);
  return entry == times.end() ? 0 : entry->second;
}

}  // namespace

void Known::add(const Known& other) {
  for (const auto& [block, time] : other.blocks) raise(blocks[block], time);
  for (const auto& [thread, time] : other.threads) raise(threads[thread], time);
}

Time Known::of(Actor actor) const {
  return std::max(found(blocks, actor.block()), threads.empty() ? 0 : found(threads, actor.id));
}

void Order::begin_launch(uint32_t blocks) {
  now_ = kBegin + 1;
  blocks_.clear();
  blocks_.resize(blocks);
  atomics_.clear();
}

void Order::begin_block(uint32_t id, uint32_t threads) {
  auto& block = blocks_[id];
  block = std::make_unique<Block>();
  block->threads.resize(threads);
  block->barrier = now_++;
}

// What single threads came to know, all of the block do.
void Order::settle(Block& block) {
  if (!block.has_own) return;
  for (Thread& thread : block.threads) {
    if (thread.own == nullptr) continue;
    block.known.add(*thread.own);
    thread.own.reset();
  }
  block.has_own = false;
}

void Order::sync_warp(Actor any_lane, uint32_t mask) {
  Block& own = block(any_lane.block());
  const uint32_t first = any_lane.within() / 32 * 32;
  Time lanes[32] = {};
  std::unique_ptr<Known> known;
  const auto each = [&](const auto& visit) {
    for (uint32_t lane = 0; lane < 32 && first + lane < own.threads.size(); ++lane) {
      if (mask >> lane & 1) visit(own.threads[first + lane], lane);
    }
  };
  each([&](Thread& thread, uint32_t) {
    for (uint32_t lane = 0; lane < 32; ++lane) raise(lanes[lane], thread.lanes[lane]);
    if (thread.own == nullptr) return;
    if (known == nullptr) known = std::make_unique<Known>();
    known->add(*thread.own);
  });
  each([&](Thread&, uint32_t lane) { lanes[lane] = now_; });
  each([&](Thread& thread, uint32_t) {
    std::copy(lanes, lanes + 32, thread.lanes);
    if (known != nullptr) thread.own = std::make_unique<Known>(*known);
  });
  ++now_;
}

void Order::sync_block(uint32_t id) {
  Block& own = block(id);
  settle(own);
  own.barrier = now_++;
}

void Order::sync_cluster(uint32_t first_block, uint32_t blocks) {
  Known all;
  for (uint32_t id = first_block; id < first_block + blocks; ++id) {
    settle(block(id));
    all.add(block(id).known);
    all.blocks[id] = now_;
  }
  for (uint32_t id = first_block; id < first_block + blocks; ++id) {
    block(id).known = all;
    block(id).barrier = now_;
  }
  ++now_;
}

void Order::begin_cluster(uint32_t first_block, uint32_t blocks) {
  for (uint32_t id = first_block; id < first_block + blocks; ++id) {
    for (uint32_t other = first_block; other < first_block + blocks; ++other) {
      raise(block(id).known.blocks[other], kBegin);
    }
  }
}

void Order::fence(Actor actor) {
  Block& own = block(actor.block());
  Thread& thread = own.threads[actor.within()];
  if (thread.met != nullptr) {
    if (thread.own == nullptr) thread.own = std::make_unique<Known>();
    thread.own->add(*thread.met);
    thread.met.reset();
    own.has_own = true;
  }
  auto released = std::make_unique<Known>(own.known);
  if (thread.own != nullptr) released->add(*thread.own);
  raise(released->blocks[actor.block()], own.barrier);
  const Actor lane_0{actor.id - actor.lane()};
  for (uint32_t lane = 0; lane < 32; ++lane) {
    if (thread.lanes[lane] > own.barrier) released->threads[lane_0.id + lane] = thread.lanes[lane];
  }
  released->threads[actor.id] = now_++;
  thread.released = std::move(released);
}

void Order::atomic(Actor actor, const void* address) {
  Thread& own = thread(actor);
  Known& carried = atomics_[address];
  if (!carried.blocks.empty()) {
    if (own.met == nullptr) own.met = std::make_unique<Known>();
    own.met->add(carried);
  }
  if (own.released != nullptr) carried.add(*own.released);
  ++now_;
}

void Order::send(Actor sender, Senders& senders) const {
  const Block& own = *blocks_[sender.block()];
  const Thread& thread = own.threads[sender.within()];
  // Of the lanes that this one knows of, all up to the earliest.
  Time time = now_;
  for (uint32_t lane = 0; lane < 32; ++lane) {
    if (lane != sender.lane()) time = std::min(time, std::max(thread.lanes[lane], own.barrier));
  }
  raise(senders.warps[sender.warp()], time);
  raise(senders.blocks[sender.block()], own.barrier);
}

void Order::receive(Actor actor, uint32_t turn, Time complete,
                    const std::shared_ptr<const Senders>& senders) {
  Thread& own = thread(actor);
  own.mailboxes[turn] = complete;
  own.senders[turn] = senders;
}

bool Order::knows(Actor actor, Actor other, Time time) const {
  if (actor == other) return true;
  const Block& own = *blocks_[actor.block()];
  const Thread& thread = own.threads[actor.within()];
  if (actor.block() == other.block()) {
    if (own.barrier >= time) return true;
    if (!other.is_thread()) {
      if (thread.mailboxes[other.within() - Actor::kFirstMailbox] >= time) return true;
    } else if (actor.warp() == other.warp() && thread.lanes[other.lane()] >= time) {
      return true;
    }
  }
  // What came into a mailbox, any warp of its block knows of that has sent since.
  const uint32_t warp = (other.is_thread() ? other : Actor::thread(other.block(), 0)).warp();
  for (const auto& senders : thread.senders) {
    if (senders == nullptr) continue;
    if (found(senders->warps, warp) >= time) return true;
    if (found(senders->blocks, other.block()) >= time) return true;
  }
  return own.known.of(other) >= time || (thread.own != nullptr && thread.own->of(other) >= time);
}

bool Order::block_knows(uint32_t id, Actor other, Time time) const {
  const uint32_t threads = static_cast<uint32_t>(blocks_[id]->threads.size());
  for (uint32_t t = 0; t < threads; ++t) {
    if (knows(Actor::thread(id, t), other, time)) return true;
  }
  return false;
}

}  // namespace sparrow::emulation
