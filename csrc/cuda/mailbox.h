// What the blocks of a cluster bring one another: each sends a pair to every block, and waits at
// its own mailbox for the pairs of all.
//
// A pair travels with its own notice: st.async stores it and tells the receiving block's mbarrier
// of its bytes. So nobody fences: a cluster barrier would order all of a block's memory, which
// costs a fence of the whole GPU, and whatever L1 holds.
//
// There are two mailboxes, taken by turns. Who sends for turn k + 2 has waited for turn k + 1, to
// which every block has sent, each once all of its threads had done with turn k: nothing that is
// still read is overwritten, and no mbarrier is two phases ahead of who waits for it.
#pragma once

#include "cuda/cluster.h"

namespace sparrow::cuda {

struct alignas(16) Masses {
  double target, draft;
};

// One mailbox of a block, in shared memory.
template <int kMostPairs>
struct Mailbox {
  Masses pairs[kMostPairs];
  alignas(16) uint64_t arrivals;  // an mbarrier

  // One thread of the block, before `cluster_begin`.
  __device__ void open();

  // One thread of the block, every turn: how many pairs will come.
  __device__ void expect(int count);

  // Puts pairs[place] into this mailbox of block `rank`.
  __device__ void send(unsigned rank, int place, const Masses& pair);

  // Every thread, once a turn: until all pairs are there. `parity` is that of how often this was
  // called before.
  __device__ void wait(unsigned parity);
};

#if defined(SPARROW_EMULATION)
template <int kMostPairs>
void Mailbox<kMostPairs>::open() {
  ::sparrow::emulation::mailbox_open(&arrivals);
}
template <int kMostPairs>
void Mailbox<kMostPairs>::expect(int count) {
  ::sparrow::emulation::mailbox_expect(&arrivals, count * sizeof(Masses));
}
template <int kMostPairs>
void Mailbox<kMostPairs>::send(unsigned rank, int place, const Masses& pair) {
  ::sparrow::emulation::mailbox_send(of_block(&pairs[place], rank), &pair, sizeof(pair),
                                     of_block(&arrivals, rank));
}
template <int kMostPairs>
void Mailbox<kMostPairs>::wait(unsigned parity) {
  ::sparrow::emulation::mailbox_wait(&arrivals, parity);
}
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ inline uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
__device__ inline uint32_t shared_address(const void* shared, unsigned rank) {
  uint32_t address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(address)
      : "r"(shared_address(shared)), "r"(rank));
  return address;
}
template <int kMostPairs>
__device__ void Mailbox<kMostPairs>::open() {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(&arrivals))
               : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
template <int kMostPairs>
__device__ void Mailbox<kMostPairs>::expect(int count) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&arrivals)),
      "r"(count * static_cast<int>(sizeof(Masses)))
      : "memory");
}
template <int kMostPairs>
__device__ void Mailbox<kMostPairs>::send(unsigned rank, int place, const Masses& pair) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f64 [%0], {%1, %2}, [%3];" ::"r"(
          shared_address(&pairs[place], rank)),
      "d"(pair.target), "d"(pair.draft), "r"(shared_address(&arrivals, rank))
      : "memory");
}
// Acquires for the block alone: all that is waited for lies in its shared memory. With .cluster,
// each wait would empty L1.
template <int kMostPairs>
__device__ void Mailbox<kMostPairs>::wait(unsigned parity) {
  const uint32_t address = shared_address(&arrivals);
  uint32_t is_there = 0;
  while (is_there == 0) {
    asm volatile(
        "{\n"
        ".reg .pred there;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 there, [%1], %2;\n"
        "selp.u32 %0, 1, 0, there;\n"
        "}"
        : "=r"(is_there)
        : "r"(address), "r"(parity)
        : "memory");
  }
}
#else  // before Hopper a cluster is one block, which sends nothing
template <int kMostPairs>
__device__ void Mailbox<kMostPairs>::open() {}
template <int kMostPairs>
__device__ void Mailbox<kMostPairs>::expect(int) {}
template <int kMostPairs>
__device__ void Mailbox<kMostPairs>::send(unsigned, int, const Masses&) {}
template <int kMostPairs>
__device__ void Mailbox<kMostPairs>::wait(unsigned) {}
#endif

}  // namespace sparrow::cuda
