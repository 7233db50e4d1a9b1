// What of a launch happens before what: which threads know of which accesses, by the rules of the
// GPU's memory model. An access that meets another one it does not know of, one of them a write, is
// a race: some GPU would let it see the old value, whatever the order was here.
//
// Who comes to know:
//   __syncwarp       the lanes of its mask, of one another   (shuffles and votes order nothing)
//   __syncthreads    the block
//   cluster_sync     the cluster
//   an atomic        nobody by itself. What a thread knows at a fence, its later atomics carry, and
//                    who meets them with an atomic of its own knows it from its own next fence on.
//   a mailbox        (mailbox.h) who waits knows of what was sent, and of what its senders' warps
//                    had done by then, and their blocks by their last barrier
// A block's shared memory begins when the block does: whoever writes to it from outside must know
// of that, and the block must know of every such access before its last thread leaves.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace sparrow::emulation {

using Time = uint32_t;

// A thread of the launch, or one of the two mailboxes of a block.
struct Actor {
  uint32_t id = 0;

  static constexpr uint32_t kPerBlock = 2048, kFirstMailbox = 1024;
  static Actor thread(uint32_t block, uint32_t thread) { return {block * kPerBlock + thread}; }
  static Actor mailbox(uint32_t block, uint32_t turn) {
    return {block * kPerBlock + kFirstMailbox + turn};
  }
  uint32_t block() const { return id / kPerBlock; }
  uint32_t within() const { return id % kPerBlock; }
  bool is_thread() const { return within() < kFirstMailbox; }
  uint32_t warp() const { return id / 32; }  // of the launch
  uint32_t lane() const { return id % 32; }
  bool operator==(const Actor&) const = default;
};

// Up to when the accesses of others are known.
struct Known {
  std::map<uint32_t, Time> blocks;
  std::map<uint32_t, Time> threads;

  void add(const Known& other);
  Time of(Actor actor) const;
};

// The same, of those that sent to a mailbox.
struct Senders {
  std::unordered_map<uint32_t, Time> warps;
  std::unordered_map<uint32_t, Time> blocks;
};

class Order {
 public:
  void begin_launch(uint32_t blocks);
  void begin_block(uint32_t block, uint32_t threads);
  void end_block(uint32_t block) { blocks_[block].reset(); }

  void sync_warp(Actor any_lane, uint32_t mask);
  void sync_block(uint32_t block);
  void sync_cluster(uint32_t first_block, uint32_t blocks);
  // Tells the blocks of a cluster that all of them have begun.
  void begin_cluster(uint32_t first_block, uint32_t blocks);
  void fence(Actor thread);
  void atomic(Actor thread, const void* address);

  // What `sender` tells who receives, and its receipt.
  void send(Actor sender, Senders& senders) const;
  void receive(Actor thread, uint32_t turn, Time complete,
               const std::shared_ptr<const Senders>& senders);

  Time now() const { return now_; }
  Time tick() { return now_++; }

  // When every block begins, as far as others can tell.
  static constexpr Time kBegin = 1;
  bool knows(Actor thread, Actor other, Time time) const;
  bool block_knows(uint32_t block, Actor other, Time time) const;

 private:
  struct Thread {
    Time lanes[32] = {};
    std::unique_ptr<Known> own;       // since the block's last barrier
    std::unique_ptr<Known> released;  // at its last fence
    std::unique_ptr<Known> met;       // by atomics, not yet behind a fence
    Time mailboxes[2] = {};
    std::shared_ptr<const Senders> senders[2];
  };
  struct Block {
    Time barrier = 0;
    Known known;
    std::vector<Thread> threads;
    bool has_own = false;
  };

  Block& block(uint32_t id) { return *blocks_[id]; }
  Thread& thread(Actor actor) { return block(actor.block()).threads[actor.within()]; }
  static void settle(Block& block);

  Time now_ = 1;
  std::vector<std::unique_ptr<Block>> blocks_;  // of the launch; those that run
  std::unordered_map<const void*, Known> atomics_;
};

}  // namespace sparrow::emulation
