// What runs: the threads, blocks and clusters of a launch, and the scheduler that takes turns.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <source_location>
#include <string>
#include <vector>

#include "emulation/order.h"
#include "emulation/scheduler.h"
#include "emulation/shadow.h"

namespace sparrow::emulation {

inline constexpr size_t kStackBytes = 128 * 1024;
inline constexpr size_t kStaticBytes = 48 * 1024;

struct Where {
  const char* kind = nullptr;  // null: not waiting
  std::source_location place;

  std::string text() const {
    return std::string(kind) + " at " + place.file_name() + ":" + std::to_string(place.line());
  }
};

struct Block;
struct Fiber;
struct Meeting;

struct Thread {
  uint3 index;
  Actor actor;
  unsigned warp, lane;
  Block* block;
  Fiber* fiber = nullptr;
  Where waiting;
  bool is_done = false;
  bool has_waited = false;  // for the kernel before
  // The warp operation it waits in, and what came of it.
  uint32_t mask = 0;
  uint64_t value = 0;
  Meeting* met = nullptr;
  unsigned counted = 0;  // what its last barrier counted
};

struct Cluster;

// A warp operation that all lanes of its mask have come to.
struct Meeting {
  uint64_t values[32];  // by lane
  uint32_t unread = 0;  // lanes that may still look at them
};

// By lane.
struct Warp {
  uint32_t here = 0;  // in a warp operation, which may be one for other lanes
  uint32_t done = 0;
  std::deque<Meeting> meetings;  // those that nobody reads any more are used again
};

struct Block {
  uint3 index;
  unsigned rank;  // in its cluster
  uint32_t id;    // in its launch
  Cluster* cluster;
  std::vector<Thread> threads;
  std::vector<Fiber*> ready;
  size_t place;  // among the blocks that are ready
  std::vector<Warp> warps;
  unsigned waiting = 0, done = 0, count = 0;
  Where barrier;
  std::unique_ptr<char[]> shared;
  size_t static_bytes = 0;  // used of it
};

struct Cluster {
  std::vector<Block> blocks;
  unsigned waiting = 0;
};

// An mbarrier that one thread a phase arrives at and says how many bytes will come.
struct Mailbox {
  Block* block = nullptr;
  uint32_t turn = 0;  // among those of its block
  bool is_expected = false;
  int64_t bytes = 0;  // to come; below 0 where they are there before they are expected
  unsigned phases = 0;
  Time complete = 0;  // the last one
  std::shared_ptr<Senders> senders = std::make_shared<Senders>();
  std::shared_ptr<const Senders> senders_complete;
  std::vector<Thread*> waiting;
};

// Bytes on their way to a mailbox.
struct Letter {
  void* to;
  char value[16];
  size_t bytes;
  Mailbox* box;
};

// xorshift: every launch must be repeatable from its seed on any machine.
class Shuffler {
 public:
  explicit Shuffler(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x2545f4914f6cdd1du) {}
  unsigned below(unsigned count) {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<unsigned>(state_ >> 32) % count;  // of 32 bits: a third of the time of 64
  }

 private:
  uint64_t state_;
};

// A stack and where to go on on it. It takes one job after another.
struct Fiber {
  // `number`: of those before it. Stacks begin at different places of a page, or the lines in use
  // of all of them would want the same few places of a cache.
  explicit Fiber(size_t number) : colour(number % kColours * kColourBytes) {}

  static constexpr size_t kColours = 61, kColourBytes = 64;
  size_t colour;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  jmp_buf context;
  bool is_started = false;
  Thread* thread = nullptr;
};

class Scheduler {
 public:
  void run(const Launch& launch, const std::function<void()>& kernel);
  void interrupt();
  [[noreturn]] void fail(const std::string& why);

  Thread& current() { return *running_->thread; }
  void wait(const char* kind, const std::source_location& place) {
    current().waiting = {kind, place};
    interrupt();
  }
  void wake(Thread& thread) {
    thread.waiting.kind = nullptr;
    make_ready(thread);  // it was in no list while it waited
  }
  void end_turn() { turn_ = 0; }
  bool chance(unsigned one_in) { return shuffler_.below(one_in) == 0; }

  // Of a block's shared memory; the static variables lie behind.
  size_t dynamic_bytes() const { return (launch_.dynamic_bytes + 15) / 16 * 16; }
  size_t shared_bytes() const { return dynamic_bytes() + kStaticBytes; }

  void access(const void* memory, size_t bytes, Access kind);
  bool is_shared(const Block& block, const char* at) const;
  void begin_shared(const Block& block, size_t offset, size_t bytes);
  Mailbox& mailbox(const void* key);
  void deliver_one();
  void complete_if_all_came(Mailbox& box);
  // Ends the launch if `race` is one.
  void report(const std::optional<Race>& race, const char* what);

  Launch launch_;
  Order order_;
  Shadow shadow_;
  std::map<const void*, Mailbox> mailboxes_;  // of the clusters that run
  std::vector<Letter> letters_;
  std::map<const void*, size_t> shared_variables_;  // offsets, the same in every block
  size_t static_bytes_ = 0;

 private:
  void run_together(std::vector<std::unique_ptr<Cluster>>& clusters);
  void make_ready(Thread& thread);
  Fiber& next();
  void resume(Fiber& fiber);
  void switch_to(Fiber& fiber);
  void start(Fiber& fiber);
  static void enter();

  Shuffler shuffler_{0};
  uint64_t seed_ = 0;
  std::vector<std::unique_ptr<Fiber>> idle_, busy_;
  size_t num_fibers_ = 0;
  std::vector<Block*> ready_;  // those of whose threads any can go on
  // Of one block any fiber goes on for a while: what they need is then at hand.
  Block* whose_turn_ = nullptr;
  unsigned turn_ = 0;         // how many more times
  Fiber* running_ = nullptr;  // null: the host
  const std::function<void()>* kernel_ = nullptr;
  jmp_buf context_;
  const char* host_stack_ = nullptr;
  ucontext_t start_context_;
  std::string failure_;
};

// Of this host thread; null before its first launch. A pointer, since what must be made before its
// first use is asked about at every use.
extern thread_local constinit Scheduler* scheduler;

inline Thread& here() { return scheduler->current(); }

}  // namespace sparrow::emulation
