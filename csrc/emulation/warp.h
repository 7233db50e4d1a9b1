// CUDA's barriers and warp operations over the scheduler's fibers.
#pragma once

#include <bit>
#include <cstring>

#include "emulation/scheduler.h"

#define SPARROW_WHERE const std::source_location& where = std::source_location::current()

inline void __syncthreads(SPARROW_WHERE) { ::sparrow::emulation::block_barrier(false, where); }
inline int __syncthreads_count(int predicate, SPARROW_WHERE) {
  return static_cast<int>(::sparrow::emulation::block_barrier(predicate != 0, where));
}
inline int __syncthreads_or(int predicate, SPARROW_WHERE) {
  return ::sparrow::emulation::block_barrier(predicate != 0, where) > 0;
}
inline int __syncthreads_and(int predicate, SPARROW_WHERE) {
  return ::sparrow::emulation::block_barrier(predicate == 0, where) == 0;
}
inline void __syncwarp(uint32_t mask = 0xffffffffu, SPARROW_WHERE) {
  ::sparrow::emulation::meet("__syncwarp", mask, 0, where);
}

namespace sparrow::emulation {

template <typename T>
uint64_t packed(T value) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <typename T>
T unpacked(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

// The value of lane `source` of the own segment, the own value where there is no such lane. A lane
// outside the mask has none: its value would be undefined.
template <typename T>
T fetch(const Brought& brought, uint32_t mask, unsigned source, bool exists) {
  const unsigned from = exists && (mask >> source & 1) ? source : brought.lane;
  return unpacked<T>(brought.values[from]);
}

template <typename T, typename Combine>
T reduce(const char* kind, uint32_t mask, T value, const Combine& combine,
         const std::source_location& where) {
  const Brought brought = meet(kind, mask, packed(value), where);
  T result{};
  bool is_first = true;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (!(mask >> lane & 1)) continue;
    const T other = unpacked<T>(brought.values[lane]);
    result = is_first ? other : combine(result, other);
    is_first = false;
  }
  return result;
}

inline uint32_t lanes_with(const Brought& brought, uint32_t mask, uint64_t value) {
  uint32_t lanes = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if ((mask >> lane & 1) && brought.values[lane] == value) lanes |= 1u << lane;
  }
  return lanes;
}

}  // namespace sparrow::emulation

template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32, SPARROW_WHERE) {
  namespace emulation = ::sparrow::emulation;
  const auto brought = emulation::meet("__shfl_sync", mask, emulation::packed(value), where);
  const unsigned segment = brought.lane & ~(static_cast<unsigned>(width) - 1);
  const unsigned from = segment | (static_cast<unsigned>(source) & (width - 1u));
  return emulation::fetch<T>(brought, mask, from, true);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = 32, SPARROW_WHERE) {
  namespace emulation = ::sparrow::emulation;
  const auto brought = emulation::meet("__shfl_xor_sync", mask, emulation::packed(value), where);
  const unsigned from = brought.lane ^ static_cast<unsigned>(lanes);
  const unsigned end = (brought.lane & ~(static_cast<unsigned>(width) - 1)) + width;
  return emulation::fetch<T>(brought, mask, from, from < end);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32, SPARROW_WHERE) {
  namespace emulation = ::sparrow::emulation;
  const auto brought = emulation::meet("__shfl_up_sync", mask, emulation::packed(value), where);
  const bool exists = brought.lane % width >= delta;
  return emulation::fetch<T>(brought, mask, brought.lane - delta, exists);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32, SPARROW_WHERE) {
  namespace emulation = ::sparrow::emulation;
  const auto brought = emulation::meet("__shfl_down_sync", mask, emulation::packed(value), where);
  const bool exists = brought.lane % width + delta < static_cast<unsigned>(width);
  return emulation::fetch<T>(brought, mask, brought.lane + delta, exists);
}
inline uint32_t __ballot_sync(uint32_t mask, int predicate, SPARROW_WHERE) {
  namespace emulation = ::sparrow::emulation;
  const auto brought = emulation::meet("__ballot_sync", mask, predicate != 0, where);
  return emulation::lanes_with(brought, mask, 1);
}
inline int __any_sync(uint32_t mask, int predicate, SPARROW_WHERE) {
  return __ballot_sync(mask, predicate, where) != 0;
}
inline int __all_sync(uint32_t mask, int predicate, SPARROW_WHERE) {
  return __ballot_sync(mask, predicate == 0, where) == 0;
}
template <typename T>
uint32_t __match_any_sync(uint32_t mask, T value, SPARROW_WHERE) {
  namespace emulation = ::sparrow::emulation;
  const auto brought = emulation::meet("__match_any_sync", mask, emulation::packed(value), where);
  return emulation::lanes_with(brought, mask, emulation::packed(value));
}

#define SPARROW_REDUCE(name, Type, expression)                                         \
  inline Type name(uint32_t mask, Type value, SPARROW_WHERE) {                         \
    return ::sparrow::emulation::reduce(                                               \
        #name, mask, value, [](Type a, Type b) -> Type { return expression; }, where); \
  }
SPARROW_REDUCE(__reduce_add_sync, uint32_t, a + b)
SPARROW_REDUCE(__reduce_min_sync, uint32_t, a < b ? a : b)
SPARROW_REDUCE(__reduce_max_sync, uint32_t, a > b ? a : b)
SPARROW_REDUCE(__reduce_and_sync, uint32_t, a& b)
SPARROW_REDUCE(__reduce_or_sync, uint32_t, a | b)
SPARROW_REDUCE(__reduce_xor_sync, uint32_t, a ^ b)
SPARROW_REDUCE(__reduce_add_sync, int32_t, a + b)
SPARROW_REDUCE(__reduce_min_sync, int32_t, a < b ? a : b)
SPARROW_REDUCE(__reduce_max_sync, int32_t, a > b ? a : b)
#undef SPARROW_REDUCE
#undef SPARROW_WHERE
