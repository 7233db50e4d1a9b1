#include "emulation/scheduler.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "emulation/running.h"

namespace sparrow::emulation {
namespace {

constexpr unsigned kThreadsAtOnce = 2048;
constexpr unsigned kLongestTurn = 512;  // in fibers that go on

}  // namespace

thread_local constinit Scheduler* scheduler = nullptr;

void Scheduler::enter() {
  Scheduler& self = *scheduler;
  Fiber* fiber = self.running_;
  while (true) {
    (*self.kernel_)();
    const Thread& thread = *fiber->thread;
    Block& block = *thread.block;
    fiber->thread->is_done = true;
    block.warps[thread.warp].done |= 1u << thread.lane;
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
  context.uc_stack.ss_size = kStackBytes - fiber.colour;
  context.uc_link = nullptr;
  makecontext(&context, &Scheduler::enter, 0);
  // setjmp and longjmp from here on: swapcontext would cost a system call a switch.
  if (_setjmp(context_) == 0) swapcontext(&start_context_, &context);
}

void Scheduler::resume(Fiber& fiber) {
  switch_to(fiber);
  running_ = nullptr;
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

void Scheduler::make_ready(Thread& thread) {
  Block& block = *thread.block;
  if (block.ready.empty()) {
    block.place = ready_.size();
    ready_.push_back(&block);
  }
  block.ready.push_back(thread.fiber);
}

Fiber& Scheduler::next() {
  if (turn_ == 0 || whose_turn_->ready.empty()) {
    whose_turn_ = ready_[shuffler_.below(static_cast<unsigned>(ready_.size()))];
    turn_ = 1 + shuffler_.below(kLongestTurn);
  }
  --turn_;
  Block& block = *whose_turn_;
  std::swap(block.ready[shuffler_.below(static_cast<unsigned>(block.ready.size()))],
            block.ready.back());
  Fiber& fiber = *block.ready.back();
  block.ready.pop_back();
  if (block.ready.empty()) {
    ready_[block.place] = ready_.back();
    ready_[block.place]->place = block.place;
    ready_.pop_back();
  }
  return fiber;
}

void Scheduler::run_together(std::vector<std::unique_ptr<Cluster>>& clusters) {
  ready_.clear();
  end_turn();
  for (auto& cluster : clusters) {
    for (Block& block : cluster->blocks) {
      for (Thread& thread : block.threads) {
        if (idle_.empty()) idle_.push_back(std::make_unique<Fiber>(num_fibers_++));
        busy_.push_back(std::move(idle_.back()));
        idle_.pop_back();
        busy_.back()->thread = &thread;
        thread.fiber = busy_.back().get();
        make_ready(thread);
      }
    }
  }
  while ((!ready_.empty() || !letters_.empty()) && failure_.empty()) {
    if (!letters_.empty() && (ready_.empty() || chance(4))) {
      deliver_one();
      continue;
    }
    Fiber& fiber = next();
    resume(fiber);
    Thread& thread = *fiber.thread;
    if (!thread.is_done && thread.waiting.kind == nullptr) make_ready(thread);
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
        block.warps.resize((threads + 31) / 32);
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

void run_grid(const Launch& launch, const std::function<void()>& kernel) {
  thread_local std::unique_ptr<Scheduler> own;
  if (own == nullptr) {
    own = std::make_unique<Scheduler>();
    scheduler = own.get();
  }
  own->run(launch, kernel);
}

void maybe_interrupt() {
  if (!scheduler->chance(4)) return;
  scheduler->end_turn();
  scheduler->interrupt();
}

}  // namespace sparrow::emulation
