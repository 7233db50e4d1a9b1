#include "emulation/scheduler.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace sparrow::emulation {
namespace {

constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kStaticBytes = 48 * 1024;
constexpr unsigned kThreadsAtOnce = 2048;
constexpr int kJunk = 0xcd;
constexpr size_t kHostStack = size_t{8} << 20;

struct Where {
  const char* kind = nullptr;  // null: not waiting
  std::source_location place;

  std::string text() const {
    return std::string(kind) + " at " + place.file_name() + ":" + std::to_string(place.line());
  }
};

struct Block;
struct Fiber;

struct Thread {
  uint3 index;
  Actor actor;
  unsigned warp, lane;
  Block* block;
  Fiber* fiber = nullptr;
  Where waiting;
  bool is_done = false;
  // The warp operation it waits in, and what came of it.
  uint32_t mask = 0;
  uint64_t value = 0;
  Brought brought;
  unsigned counted = 0;  // what its last barrier counted
};

struct Cluster;

struct Block {
  uint3 index;
  unsigned rank;  // in its cluster
  uint32_t id;    // in its launch
  Cluster* cluster;
  std::vector<Thread> threads;
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
    return static_cast<unsigned>((state_ >> 32) % count);
  }

 private:
  uint64_t state_;
};

// threadIdx and the like lie in memory that no kernel knows of.
bool is_index(const char* at) {
  const auto within = [at](const auto& variable) {
    const char* const begin = reinterpret_cast<const char*>(&variable);
    return at >= begin && at < begin + sizeof(variable);
  };
  return within(threadIdx) || within(blockIdx) || within(blockDim) || within(gridDim);
}

// A stack and where to go on on it. It takes one job after another.
struct Fiber {
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
    ready_.push_back(thread.fiber);  // it was in no list while it waited
  }
  bool chance(unsigned one_in) { return shuffler_.below(one_in) == 0; }

  // Of a block's shared memory; the static variables lie behind.
  size_t dynamic_bytes() const { return (launch_.dynamic_bytes + 15) / 16 * 16; }
  size_t shared_bytes() const { return dynamic_bytes() + kStaticBytes; }

  void access(const void* memory, size_t bytes, Access kind);
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
  void resume(Fiber& fiber);
  void switch_to(Fiber& fiber);
  void start(Fiber& fiber);
  static void enter();

  Shuffler shuffler_{0};
  uint64_t seed_ = 0;
  std::vector<std::unique_ptr<Fiber>> idle_, busy_;
  std::vector<Fiber*> ready_;
  Fiber* running_ = nullptr;
  const std::function<void()>* kernel_ = nullptr;
  jmp_buf context_;
  bool is_host_ = true;  // what runs is no kernel
  const char* host_stack_ = nullptr;
  ucontext_t start_context_;
  std::string failure_;
};

thread_local Scheduler scheduler;

void Scheduler::enter() {
  Scheduler& self = scheduler;
  Fiber* fiber = self.running_;
  while (true) {
    (*self.kernel_)();
    fiber->thread->is_done = true;
    Block& block = *fiber->thread->block;
    if (++block.done > 0 && block.waiting > 0) {
      self.fail("a thread has left the kernel while others wait in " + block.barrier.text());
    }
    if (block.done == block.threads.size() && block.cluster->blocks.size() > 1 && block.shared) {
      self.report(self.shadow_.unknown_at_end(self.order_, block.id, block.shared.get(),
                                              self.dynamic_bytes() + block.static_bytes),
                  "a block leaves, and with it its shared memory,");
    }
    self.interrupt();  // comes back with the next job
  }
}

void Scheduler::start(Fiber& fiber) {
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, &Scheduler::enter, 0);
  // setjmp and longjmp from here on: swapcontext would cost a system call a switch.
  if (_setjmp(context_) == 0) swapcontext(&start_context_, &context);
}

void Scheduler::resume(Fiber& fiber) {
  is_host_ = false;
  switch_to(fiber);
  is_host_ = true;
}

void Scheduler::switch_to(Fiber& fiber) {
  Thread& thread = *fiber.thread;
  threadIdx = thread.index;
  blockIdx = thread.block->index;
  running_ = &fiber;
  if (!fiber.is_started) {
    fiber.is_started = true;
    start(fiber);
  } else if (_setjmp(context_) == 0) {
    _longjmp(fiber.context, 1);
  }
}

void Scheduler::interrupt() {
  if (_setjmp(running_->context) == 0) _longjmp(context_, 1);
}

void Scheduler::fail(const std::string& why) {
  const Thread& thread = current();
  failure_ = why + " (block " + std::to_string(thread.block->index.x) + ", thread " +
             std::to_string(thread.index.x) + ")";
  _longjmp(context_, 1);
}

void Scheduler::access(const void* memory, size_t bytes, Access kind) {
  if (running_ == nullptr || is_host_) return;
  const char* const at = static_cast<const char*>(memory);
  const char* const stack = running_->stack.get();
  if (at >= stack && at < stack + kStackBytes) return;             // its own
  if (at >= host_stack_ && at < host_stack_ + kHostStack) return;  // the launch's parameters
  if (is_index(at)) return;
  const Thread& thread = current();
  report(shadow_.access(order_, thread.actor, thread.actor, memory, bytes, kind),
         kind == Access::kRead    ? "a read"
         : kind == Access::kWrite ? "a write"
                                  : "an atomic");
  if (kind == Access::kAtomic) order_.atomic(thread.actor, memory);
}

// Who writes to it from another block must know that this one has begun.
void Scheduler::begin_shared(const Block& block, size_t offset, size_t bytes) {
  shadow_.begin(block.shared.get() + offset, bytes, Actor::thread(block.id, Actor::kPerBlock - 1),
                1);
}

Mailbox& Scheduler::mailbox(const void* key) {
  const auto box = mailboxes_.find(key);
  if (box == mailboxes_.end()) fail("a mailbox that nobody has opened");
  return box->second;
}

void Scheduler::deliver_one() {
  std::swap(letters_[shuffler_.below(static_cast<unsigned>(letters_.size()))], letters_.back());
  const Letter letter = letters_.back();
  letters_.pop_back();
  const Block& block = *letter.box->block;
  if (block.done == block.threads.size()) {
    failure_ = "sent to a block that has left, " + std::to_string(block.index.x);
    return;
  }
  std::memcpy(letter.to, letter.value, letter.bytes);
  letter.box->bytes -= static_cast<int64_t>(letter.bytes);
  complete_if_all_came(*letter.box);
}

void Scheduler::complete_if_all_came(Mailbox& box) {
  if (!box.is_expected || box.bytes != 0) return;
  box.is_expected = false;
  ++box.phases;
  box.complete = order_.tick();
  box.senders_complete = std::exchange(box.senders, std::make_shared<Senders>());
  for (Thread* thread : box.waiting) wake(*thread);
  box.waiting.clear();
}

void Scheduler::report(const std::optional<Race>& race, const char* what) {
  if (!race) return;
  const Actor other = race->other;
  fail(std::string("race: ") + what + " does not know of a " +
       (race->other_wrote ? "write" : "read") + " by " +
       (other.is_thread()                        ? "thread " + std::to_string(other.within())
        : other.within() == Actor::kPerBlock - 1 ? std::string("the beginning")
                                                 : std::string("a mailbox")) +
       " of block number " + std::to_string(other.block()) + " of the launch");
}

void Scheduler::run_together(std::vector<std::unique_ptr<Cluster>>& clusters) {
  ready_.clear();
  for (auto& cluster : clusters) {
    for (Block& block : cluster->blocks) {
      for (Thread& thread : block.threads) {
        if (idle_.empty()) idle_.push_back(std::make_unique<Fiber>());
        busy_.push_back(std::move(idle_.back()));
        idle_.pop_back();
        busy_.back()->thread = &thread;
        thread.fiber = busy_.back().get();
        ready_.push_back(busy_.back().get());
      }
    }
  }
  while ((!ready_.empty() || !letters_.empty()) && failure_.empty()) {
    if (!letters_.empty() && (ready_.empty() || chance(4))) {
      deliver_one();
      continue;
    }
    std::swap(ready_[shuffler_.below(static_cast<unsigned>(ready_.size()))], ready_.back());
    Fiber* fiber = ready_.back();
    ready_.pop_back();
    resume(*fiber);
    const Thread& thread = *fiber->thread;
    if (!thread.is_done && thread.waiting.kind == nullptr) ready_.push_back(fiber);
  }
  if (failure_.empty()) {
    for (auto& fiber : busy_) {
      if (fiber->thread->is_done) continue;
      failure_ = "threads wait for ever, one of them in " + fiber->thread->waiting.text();
      break;
    }
  }
  if (!failure_.empty()) {
    letters_.clear();
    mailboxes_.clear();
    // Their stacks are in the middle of a kernel: no job can go on them any more.
    for (auto& fiber : busy_) fiber.release();
    busy_.clear();
    const std::string why = "emulated launch (SPARROW_EMULATION_SEED=" + std::to_string(seed_) +
                            "): " + std::exchange(failure_, "");
    throw std::runtime_error(why);
  }
  mailboxes_.clear();
  for (auto& fiber : busy_) idle_.push_back(std::move(fiber));
  busy_.clear();
}

void Scheduler::run(const Launch& launch, const std::function<void()>& kernel) {
  static const char* const first_seed = std::getenv("SPARROW_EMULATION_SEED");
  thread_local uint64_t num_launches = 0;
  seed_ = (first_seed != nullptr ? std::strtoull(first_seed, nullptr, 10) : 0) + num_launches++;
  shuffler_ = Shuffler(seed_);
  launch_ = launch;
  kernel_ = &kernel;
  order_.begin_launch(launch.grid.x * launch.grid.y * launch.grid.z);
  shadow_.begin_launch();
  host_stack_ = static_cast<const char*>(__builtin_frame_address(0));
  shared_variables_.clear();
  static_bytes_ = 0;
  blockDim = launch.block;
  gridDim = launch.grid;

  const unsigned threads = launch.block.x * launch.block.y * launch.block.z;
  const unsigned clusters_x = launch.grid.x / launch.cluster;
  std::vector<unsigned> order(size_t{clusters_x} * launch.grid.y * launch.grid.z);
  std::iota(order.begin(), order.end(), 0u);
  for (size_t i = order.size(); i > 1; --i) {
    std::swap(order[i - 1], order[shuffler_.below(static_cast<unsigned>(i))]);
  }
  const unsigned most = std::max(1u, kThreadsAtOnce / (threads * launch.cluster));
  for (size_t begin = 0; begin < order.size();) {
    const size_t together = std::min<size_t>(order.size() - begin, 1 + shuffler_.below(most));
    std::vector<std::unique_ptr<Cluster>> clusters;
    for (size_t c = begin; c < begin + together; ++c) {
      auto cluster = std::make_unique<Cluster>();
      cluster->blocks.resize(launch.cluster);
      for (unsigned rank = 0; rank < launch.cluster; ++rank) {
        Block& block = cluster->blocks[rank];
        block.index = {order[c] % clusters_x * launch.cluster + rank,
                       order[c] / clusters_x % launch.grid.y,
                       order[c] / clusters_x / launch.grid.y};
        block.rank = rank;
        block.id = order[c] * launch.cluster + rank;
        block.cluster = cluster.get();
        block.threads.resize(threads);
        order_.begin_block(block.id, threads);
        for (unsigned t = 0; t < threads; ++t) {
          Thread& thread = block.threads[t];
          thread.index = {t % launch.block.x, t / launch.block.x % launch.block.y,
                          t / launch.block.x / launch.block.y};
          thread.actor = Actor::thread(block.id, t);
          thread.warp = t / 32;
          thread.lane = t % 32;
          thread.block = &block;
        }
      }
      clusters.push_back(std::move(cluster));
    }
    run_together(clusters);
    for (const auto& cluster : clusters) {
      for (const Block& block : cluster->blocks) {
        order_.end_block(block.id);
        if (block.shared == nullptr) continue;
        // Whatever comes to lie there next has another past.
        shadow_.begin(block.shared.get(), dynamic_bytes() + block.static_bytes, {}, 0);
      }
    }
    begin += together;
  }
}

Thread& here() { return scheduler.current(); }

char* shared_of(Block& block) {
  if (block.shared == nullptr) {
    block.shared = std::make_unique_for_overwrite<char[]>(scheduler.shared_bytes());
    std::memset(block.shared.get(), kJunk, scheduler.shared_bytes());
    scheduler.begin_shared(block, 0, scheduler.dynamic_bytes());
  }
  return block.shared.get();
}

}  // namespace

void run_grid(const Launch& launch, const std::function<void()>& kernel) {
  scheduler.run(launch, kernel);
}

static std::mutex allowed_mutex;
static std::map<const void*, Allowed> allowed_of;

void allow(const void* kernel, bool is_shared, int value) {
  {
    const std::lock_guard<std::mutex> lock(allowed_mutex);
    Allowed& own = allowed_of[kernel];
    if (is_shared) {
      own.shared_bytes = value;
    } else {
      own.any_cluster = value != 0;
    }
  }
  // Between a setting and the launch it is for another thread may come in: let it.
  std::this_thread::sleep_for(std::chrono::microseconds(50));
}

Allowed allowed(const void* kernel) {
  const std::lock_guard<std::mutex> lock(allowed_mutex);
  return allowed_of[kernel];
}

void on_access(const void* memory, size_t bytes, Access kind) {
  scheduler.access(memory, bytes, kind);
}

void on_fence() { scheduler.order_.fence(here().actor); }

void maybe_interrupt() {
  if (scheduler.chance(4)) scheduler.interrupt();
}

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

void mailbox_open(const void* box) {
  Block& block = *here().block;
  uint32_t turn = 0;
  for (const auto& [key, other] : scheduler.mailboxes_) turn += other.block == &block;
  if (turn == 2) scheduler.fail("a block with more than two mailboxes");
  Mailbox& opened = scheduler.mailboxes_[box] = {};
  opened.block = &block;
  opened.turn = turn;
}

void mailbox_expect(const void* key, size_t bytes) {
  Mailbox& box = scheduler.mailbox(key);
  if (box.block != here().block) scheduler.fail("another block's mailbox");
  if (box.is_expected) scheduler.fail("a mailbox expects twice in a phase");
  box.is_expected = true;
  box.bytes += static_cast<int64_t>(bytes);
  scheduler.complete_if_all_came(box);
}

void mailbox_send(void* to, const void* value, size_t bytes, const void* key) {
  Mailbox& box = scheduler.mailbox(key);
  const Actor sender = here().actor;
  scheduler.report(
      scheduler.shadow_.access(scheduler.order_, sender, Actor::mailbox(box.block->id, box.turn),
                               to, bytes, Access::kWrite),
      "a sent value");
  scheduler.order_.send(sender, *box.senders);
  Letter letter{.to = to, .value = {}, .bytes = bytes, .box = &box};
  std::memcpy(letter.value, value, bytes);
  scheduler.letters_.push_back(letter);
  maybe_interrupt();
}

void mailbox_wait(const void* key, unsigned parity) {
  Mailbox& box = scheduler.mailbox(key);
  while (box.phases % 2 == parity) {
    box.waiting.push_back(&here());
    scheduler.wait("a mailbox", std::source_location::current());
  }
  scheduler.order_.receive(here().actor, box.turn, box.complete, box.senders_complete);
  if (scheduler.chance(4)) scheduler.interrupt();
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

void* shared_variable(const void* key, size_t bytes) {
  const size_t rounded = (bytes + 15) / 16 * 16;
  auto [entry, is_new] = scheduler.shared_variables_.try_emplace(key, scheduler.static_bytes_);
  if (is_new) scheduler.static_bytes_ += rounded;
  if (scheduler.static_bytes_ > kStaticBytes) scheduler.fail("more than 48 KiB of __shared__");
  Block& block = *here().block;
  char* const memory = shared_of(block);
  const size_t end = entry->second + rounded;
  if (end > block.static_bytes) {
    scheduler.begin_shared(block, scheduler.dynamic_bytes() + block.static_bytes,
                           end - block.static_bytes);
    block.static_bytes = end;
  }
  return memory + scheduler.dynamic_bytes() + entry->second;
}

char* dynamic_shared() { return shared_of(*here().block); }
unsigned cluster_rank() { return here().block->rank; }
unsigned cluster_size() { return static_cast<unsigned>(here().block->cluster->blocks.size()); }

void* of_block(const void* shared, unsigned rank) {
  Block& own = *here().block;
  if (rank >= own.cluster->blocks.size()) scheduler.fail("of_block: no such block in the cluster");
  return shared_of(own.cluster->blocks[rank]) + (static_cast<const char*>(shared) - shared_of(own));
}

}  // namespace sparrow::emulation
