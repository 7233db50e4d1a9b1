// Runs the threads of a grid as fibers on the calling thread, in an order that a seed shuffles.
//
// A fiber runs until it meets a barrier, a warp operation or (at times) an atomic, then another one
// goes on: a missing barrier shows as a wrong result in some order. Several blocks run at once.
// Memory is weak: an access that some GPU would let see an old value, for want of a barrier or a
// fence, ends the launch with an exception (order.h), whichever order came about.
// Shared memory is filled with junk before a block begins. A barrier that not every thread reaches,
// a warp operation whose mask names lanes that do not come, and memory that a dependent launch
// touches before it has waited, end the launch with an exception.
//
//   SPARROW_EMULATION_SEED  the order of the first launch (0); each launch takes the next one
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <source_location>

#include "emulation/shadow.h"

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x = 1, y = 1, z = 1;
};

// Of the fiber that runs.
inline thread_local uint3 threadIdx, blockIdx;
inline thread_local dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace sparrow::emulation {

struct Launch {
  dim3 grid, block;
  size_t dynamic_bytes;
  unsigned cluster;
  bool is_dependent;  // may have begun before the launch before it has ended
};

void run_grid(const Launch& launch, const std::function<void()>& kernel);

// What a kernel was last allowed, by whichever host thread: its dynamic shared memory
// (`is_shared`), or clusters of more than eight blocks.
struct Allowed {
  int shared_bytes = 48 * 1024;
  bool any_cluster = false;
};
void allow(const void* kernel, bool is_shared, int value);
Allowed allowed(const void* kernel);

// Before each access of a kernel: hooks.cpp.
void on_access(const void* memory, size_t bytes, Access kind);
void on_fence();

// Lets others run, at times.
void maybe_interrupt();

// Until the launch before has ended. A dependent one that touches memory earlier ends with an
// exception.
void wait_for_kernel_before();

// --- barriers; each returns how many threads came with a true predicate --------------------------
unsigned block_barrier(bool predicate, const std::source_location& where);
void cluster_sync(const std::source_location& where = std::source_location::current());
// Orders nothing but that all blocks of the cluster have begun.
void cluster_begin(const std::source_location& where = std::source_location::current());

// --- mailboxes (cuda/mailbox.h): an mbarrier counts the bytes that are sent to it ---------------
void mailbox_open(const void* box);
void mailbox_expect(const void* box, size_t bytes);
// The bytes arrive some time later, and those of several in any order.
void mailbox_send(void* to, const void* value, size_t bytes, const void* box);
void mailbox_wait(const void* box, unsigned parity);

// --- warp operations ----------------------------------------------------------------------------
// What every lane of the mask brought, once all of them have come.
struct Brought {
  unsigned lane;
  const uint64_t* values;  // by lane, until the next operation
};
// `kind` names the operation: lanes that meet must mean the same one.
Brought meet(const char* kind, uint32_t mask, uint64_t value, const std::source_location& where);

// --- shared memory ------------------------------------------------------------------------------
void* shared_variable(const void* key, size_t bytes);
char* dynamic_shared();
unsigned cluster_rank();
unsigned cluster_size();
void* of_block(const void* shared, unsigned rank);

template <typename T>
T& shared(const void* key) {
  static_assert(alignof(T) <= 16);
  return *static_cast<T*>(shared_variable(key, sizeof(T)));
}
template <typename T>
T* of_block(T* shared, unsigned rank) {
  return static_cast<T*>(of_block(static_cast<const void*>(shared), rank));
}

}  // namespace sparrow::emulation
