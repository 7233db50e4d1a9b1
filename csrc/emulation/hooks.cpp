// What -fsanitize=thread has the compiler call before every access to memory. Its own runtime is
// not linked: these take its place.
#include <cstddef>
#include <cstdint>

#include "emulation/scheduler.h"

using sparrow::emulation::Access;
using sparrow::emulation::on_access;

#define SPARROW_HOOK extern "C" __attribute__((visibility("hidden"))) void
#define SPARROW_HOOKS(bytes)                                                                  \
  SPARROW_HOOK __tsan_read##bytes(void* at) { on_access(at, bytes, Access::kRead); }          \
  SPARROW_HOOK __tsan_write##bytes(void* at) { on_access(at, bytes, Access::kWrite); }        \
  SPARROW_HOOK __tsan_unaligned_read##bytes(void* at) { __tsan_read##bytes(at); }             \
  SPARROW_HOOK __tsan_unaligned_write##bytes(void* at) { __tsan_write##bytes(at); }           \
  SPARROW_HOOK __tsan_volatile_read##bytes(void* at) { on_access(at, bytes, Access::kRead); } \
  SPARROW_HOOK __tsan_volatile_write##bytes(void* at) { on_access(at, bytes, Access::kWrite); }
SPARROW_HOOKS(1)
SPARROW_HOOKS(2)
SPARROW_HOOKS(4)
SPARROW_HOOKS(8)
SPARROW_HOOKS(16)
SPARROW_HOOK __tsan_read_range(void* at, size_t bytes) { on_access(at, bytes, Access::kRead); }
SPARROW_HOOK __tsan_write_range(void* at, size_t bytes) { on_access(at, bytes, Access::kWrite); }
SPARROW_HOOK __tsan_init() {}
SPARROW_HOOK __tsan_func_entry(void*) {}
SPARROW_HOOK __tsan_func_exit() {}
SPARROW_HOOK __tsan_vptr_update(void**, void*) {}
SPARROW_HOOK __tsan_vptr_read(void**) {}

// Of host code: the standard library's atomics.
#define SPARROW_ATOMIC_HOOKS(bits)                                                                 \
  extern "C" __attribute__((visibility("hidden"))) uint##bits##_t __tsan_atomic##bits##_load(      \
      const volatile uint##bits##_t* at, int) {                                                    \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                                  \
  }                                                                                                \
  SPARROW_HOOK __tsan_atomic##bits##_store(volatile uint##bits##_t* at, uint##bits##_t to, int) {  \
    __atomic_store_n(at, to, __ATOMIC_SEQ_CST);                                                    \
  }                                                                                                \
  extern "C" __attribute__((visibility("hidden"))) uint##bits##_t __tsan_atomic##bits##_fetch_add( \
      volatile uint##bits##_t* at, uint##bits##_t by, int) {                                       \
    return __atomic_fetch_add(at, by, __ATOMIC_SEQ_CST);                                           \
  }
SPARROW_ATOMIC_HOOKS(8)
SPARROW_ATOMIC_HOOKS(32)
SPARROW_ATOMIC_HOOKS(64)
