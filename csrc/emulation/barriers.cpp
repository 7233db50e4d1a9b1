#include <algorithm>

#include "emulation/running.h"

namespace sparrow::emulation {

unsigned block_barrier(bool predicate, const std::source_location& where) {
  Thread& thread = here();
  Block& block = *thread.block;
  if (block.done > 0) {
    scheduler->fail("__syncthreads after another thread of the block has left the kernel, line " +
                    std::to_string(where.line()));
  }
  if (block.waiting == 0) {
    block.barrier = {"__syncthreads", where};
    block.count = 0;
  } else if (block.barrier.place.line() != where.line()) {
    scheduler->fail("threads of a block meet in different barriers: " + block.barrier.text() +
                    " and line " + std::to_string(where.line()));
  }
  block.count += predicate;
  if (++block.waiting < block.threads.size()) {
    scheduler->wait("__syncthreads", where);
    return thread.counted;
  }
  block.waiting = 0;
  scheduler->order_.sync_block(block.id);
  const unsigned count = block.count;
  for (Thread& other : block.threads) {
    other.counted = count;
    if (&other != &thread) scheduler->wake(other);
  }
  scheduler->interrupt();
  return count;
}

namespace {

// Once all threads of the cluster are there, the last of them does `order`.
template <typename Order>
void meet_cluster(const char* kind, const std::source_location& where, const Order& order) {
  Thread& thread = here();
  Cluster& cluster = *thread.block->cluster;
  const size_t all = cluster.blocks.size() * thread.block->threads.size();
  if (++cluster.waiting < all) return scheduler->wait(kind, where);
  cluster.waiting = 0;
  order(cluster.blocks.front().id, static_cast<uint32_t>(cluster.blocks.size()));
  for (Block& block : cluster.blocks) {
    for (Thread& other : block.threads) {
      if (&other != &thread) scheduler->wake(other);
    }
  }
  scheduler->interrupt();
}

}  // namespace

void cluster_sync(const std::source_location& where) {
  meet_cluster("cluster_sync", where, [](uint32_t first, uint32_t blocks) {
    scheduler->order_.sync_cluster(first, blocks);
  });
}

void cluster_begin(const std::source_location& where) {
  meet_cluster("cluster_begin", where, [](uint32_t first, uint32_t blocks) {
    scheduler->order_.begin_cluster(first, blocks);
  });
}

namespace {

Meeting& unread_by_none(Warp& warp) {
  for (Meeting& meeting : warp.meetings) {
    if (meeting.unread == 0) return meeting;
  }
  return warp.meetings.emplace_back();
}

}  // namespace

Brought meet(const char* kind, uint32_t mask, uint64_t value, const std::source_location& where) {
  Thread& thread = here();
  const auto fail = [&](const char* why) {
    scheduler->fail(std::string(kind) + ": " + why + ", line " + std::to_string(where.line()));
  };
  Warp& warp = thread.block->warps[thread.warp];
  Thread* const threads = &thread.block->threads[thread.warp * 32];
  const size_t lanes = std::min<size_t>(32, thread.block->threads.size() - thread.warp * 32);
  if (!(mask >> thread.lane & 1)) fail("own lane not in mask");
  if (lanes < 32 && mask >> lanes != 0) fail("mask names lanes past the block");
  if (mask & warp.done) fail("mask names a lane that has left the kernel");
  if (thread.met != nullptr) thread.met->unread &= ~(1u << thread.lane);
  thread.met = nullptr;
  thread.mask = mask;
  thread.value = value;
  thread.waiting = {kind, where};
  warp.here |= 1u << thread.lane;
  bool is_last = (mask & ~warp.here) == 0;
  for (unsigned lane = 0; lane < lanes && is_last; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const Thread& other = threads[lane];
    is_last = other.mask == mask &&
              (other.waiting.kind == kind || std::strcmp(other.waiting.kind, kind) == 0);
  }
  if (!is_last) {
    scheduler->interrupt();
    return {thread.lane, thread.met->values};
  }
  Meeting& meeting = unread_by_none(warp);
  meeting.unread = mask;
  for (unsigned lane = 0; lane < lanes; ++lane) meeting.values[lane] = threads[lane].value;
  if (std::strcmp(kind, "__syncwarp") == 0) scheduler->order_.sync_warp(thread.actor, mask);
  warp.here &= ~mask;
  for (unsigned lane = 0; lane < lanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    threads[lane].mask = 0;
    threads[lane].met = &meeting;
    if (&threads[lane] != &thread) scheduler->wake(threads[lane]);
  }
  thread.waiting.kind = nullptr;
  if (scheduler->chance(2)) scheduler->interrupt();
  return {thread.lane, meeting.values};
}

}  // namespace sparrow::emulation
