// Where a driver gets the memory it needs beside a call's arguments.
#pragma once

#include <cstdint>

namespace sparrow {

// Memory of the call's device, unspecified, that lives until the work queued by the call is done.
struct Scratch {
  void* owner;
  void* (*allocate)(void* owner, int64_t bytes);

  template <typename T>
  T* get(int64_t count) const {
    return static_cast<T*>(allocate(owner, count * static_cast<int64_t>(sizeof(T))));
  }
};

}  // namespace sparrow
