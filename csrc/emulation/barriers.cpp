#include <algorithm>

#include "emulation/running.h"

namespace sparrow::emulation {

unsigned block_barrier(bool predicate, const std::source_location& where) {
  Thread& thread = here();
  Block& block = *thread.block;
  if (block.done > 0) {
    scheduler.fail("__syncthreads after another thread of the block has left the kernel, line " +
                   std::to_string(where.line()));
  }
  if (block.waiting == 0) {
    block.barrier = {"__syncthreads", where};
    block.count = 0;
  } else if (block.barrier.place.line() != where.line()) {
    scheduler.fail("threads of a block meet in different barriers: " + block.barrier.text() +
                   " and line " + std::to_string(where.line()));
  }
  block.count += predicate;
  if (++block.waiting < block.threads.size()) {
    scheduler.wait("__syncthreads", where);
    return thread.counted;
  }
  block.waiting = 0;
  scheduler.order_.sync_block(block.id);
  const unsigned count = block.count;
  for (Thread& other : block.threads) {
    other.counted = count;
    if (&other != &thread) scheduler.wake(other);
  }
  scheduler.interrupt();
  return count;
}

namespace {

// Once all threads of the cluster are there, the last of them does `order`.
template <typename Order>
void meet_cluster(const char* kind, const std::source_location& where, const Order& order) {
  Thread& thread = here();
  Cluster& cluster = *thread.block->cluster;
  const size_t all = cluster.blocks.size() * thread.block->threads.size();
  if (++cluster.waiting < all) return scheduler.wait(kind, where);
  cluster.waiting = 0;
  order(cluster.blocks.front().id, static_cast<uint32_t>(cluster.blocks.size()));
  for (Block& block : cluster.blocks) {
    for (Thread& other : block.threads) {
      if (&other != &thread) scheduler.wake(other);
    }
  }
  scheduler.interrupt();
}

}  // namespace

void cluster_sync(const std::source_location& where) {
  meet_cluster("cluster_sync", where, [](uint32_t first, uint32_t blocks) {
    scheduler.order_.sync_cluster(first, blocks);
  });
}

void cluster_begin(const std::source_location& where) {
  meet_cluster("cluster_begin", where, [](uint32_t first, uint32_t blocks) {
    scheduler.order_.begin_cluster(first, blocks);
  });
}

const Brought& meet(const char* kind, uint32_t mask, uint64_t value,
                    const std::source_location& where) {
  Thread& thread = here();
  const std::string line = ", line " + std::to_string(where.line());
  if (!(mask >> thread.lane & 1))
    scheduler.fail(std::string(kind) + ": own lane not in mask" + line);
  thread.mask = mask;
  thread.value = value;
  thread.waiting = {kind, where};
  Thread* const warp = &thread.block->threads[thread.warp * 32];
  const size_t lanes = std::min<size_t>(32, thread.block->threads.size() - thread.warp * 32);
  bool is_last = true;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    if (lane >= lanes)
      scheduler.fail(std::string(kind) + ": mask names lanes past the block" + line);
    const Thread& other = warp[lane];
    if (other.is_done) {
      scheduler.fail(std::string(kind) + ": mask names a lane that has left the kernel" + line);
    }
    const bool is_here = other.waiting.kind != nullptr && other.mask == mask &&
                         (other.waiting.kind == kind || std::strcmp(other.waiting.kind, kind) == 0);
    is_last = is_last && is_here;
  }
  if (!is_last) {
    scheduler.interrupt();
    return thread.brought;
  }
  for (unsigned lane = 0; lane < lanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    Thread& other = warp[lane];
    other.brought.lane = lane;
    for (unsigned from = 0; from < lanes; ++from) other.brought.values[from] = warp[from].value;
  }
  if (std::strcmp(kind, "__syncwarp") == 0) scheduler.order_.sync_warp(thread.actor, mask);
  for (unsigned lane = 0; lane < lanes; ++lane) {
    if (!(mask >> lane & 1)) continue;
    warp[lane].mask = 0;
    if (&warp[lane] != &thread) scheduler.wake(warp[lane]);
  }
  thread.waiting.kind = nullptr;
  if (scheduler.chance(2)) scheduler.interrupt();
  return thread.brought;
}

}  // namespace sparrow::emulation
