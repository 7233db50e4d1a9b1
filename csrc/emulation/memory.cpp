// Shared memory, what a kernel is allowed of it, and every access to any memory.
#include <chrono>
#include <cstring>
#include <mutex>
#include <thread>

#include "emulation/running.h"

namespace sparrow::emulation {
namespace {

constexpr int kJunk = 0xcd;
constexpr size_t kHostStack = size_t{8} << 20;

// threadIdx and the like lie in memory that no kernel knows of.
bool is_index(const char* at) {
  const auto within = [at](const auto& variable) {
    const char* const begin = reinterpret_cast<const char*>(&variable);
    return at >= begin && at < begin + sizeof(variable);
  };
  return within(threadIdx) || within(blockIdx) || within(blockDim) || within(gridDim);
}

char* shared_of(Block& block) {
  if (block.shared == nullptr) {
    block.shared = std::make_unique_for_overwrite<char[]>(scheduler->shared_bytes());
    std::memset(block.shared.get(), kJunk, scheduler->shared_bytes());
    scheduler->begin_shared(block, 0, scheduler->dynamic_bytes());
  }
  return block.shared.get();
}

}  // namespace

void Scheduler::access(const void* memory, size_t bytes, Access kind) {
  if (running_ == nullptr) return;
  const char* const at = static_cast<const char*>(memory);
  const char* const stack = running_->stack.get();
  if (at >= stack && at < stack + kStackBytes) return;             // its own
  if (at >= host_stack_ && at < host_stack_ + kHostStack) return;  // the launch's parameters
  if (is_index(at)) return;
  Thread& thread = current();
  if (launch_.is_dependent && !thread.has_waited && !is_shared(*thread.block, at)) {
    thread.has_waited = true;  // or the text, whose code may be the kernel's too, comes here again
    fail("memory is touched before the kernel before has ended");
  }
  report(shadow_.access(order_, thread.actor, thread.actor, memory, bytes, kind),
         kind == Access::kRead    ? "a read"
         : kind == Access::kWrite ? "a write"
                                  : "an atomic");
  if (kind == Access::kAtomic) order_.atomic(thread.actor, memory);
}

bool Scheduler::is_shared(const Block& block, const char* at) const {
  const char* const own = block.shared.get();
  return own != nullptr && at >= own && at < own + shared_bytes();
}

void wait_for_kernel_before() {
  here().has_waited = true;
  maybe_interrupt();
}

// Who writes to it from another block must know that this one has begun.
void Scheduler::begin_shared(const Block& block, size_t offset, size_t bytes) {
  shadow_.begin(block.shared.get() + offset, bytes, Actor::thread(block.id, Actor::kPerBlock - 1),
                1);
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
  if (scheduler != nullptr) scheduler->access(memory, bytes, kind);
}

void on_fence() { scheduler->order_.fence(here().actor); }

void* shared_variable(const void* key, size_t bytes) {
  const size_t rounded = (bytes + 15) / 16 * 16;
  auto [entry, is_new] = scheduler->shared_variables_.try_emplace(key, scheduler->static_bytes_);
  if (is_new) scheduler->static_bytes_ += rounded;
  if (scheduler->static_bytes_ > kStaticBytes) scheduler->fail("more than 48 KiB of __shared__");
  Block& block = *here().block;
  char* const memory = shared_of(block);
  const size_t end = entry->second + rounded;
  if (end > block.static_bytes) {
    scheduler->begin_shared(block, scheduler->dynamic_bytes() + block.static_bytes,
                            end - block.static_bytes);
    block.static_bytes = end;
  }
  return memory + scheduler->dynamic_bytes() + entry->second;
}

char* dynamic_shared() { return shared_of(*here().block); }
unsigned cluster_rank() { return here().block->rank; }
unsigned cluster_size() { return static_cast<unsigned>(here().block->cluster->blocks.size()); }

void* of_block(const void* shared, unsigned rank) {
  Block& own = *here().block;
  if (rank >= own.cluster->blocks.size()) scheduler->fail("of_block: no such block in the cluster");
  return shared_of(own.cluster->blocks[rank]) + (static_cast<const char*>(shared) - shared_of(own));
}

}  // namespace sparrow::emulation
