// A kernel that begins while the one before it in its stream is still at work (sm_90 and later).
//
// A launch whose Grid says `dependent` may begin once every block of the kernel before has ended or
// said `let_next_begin`; it reads and writes nothing of others' before `wait_for_kernel_before`.
// What that saves is the time from the end of one kernel to the beginning of the next.
#pragma once

#include <cuda_runtime.h>

namespace sparrow::cuda {

#if defined(SPARROW_EMULATION)
__device__ inline void let_next_begin() {}
__device__ inline void wait_for_kernel_before() { ::sparrow::emulation::wait_for_kernel_before(); }
#elif !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
__device__ inline void let_next_begin() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
// Until all of its blocks have ended, and what they wrote is there.
__device__ inline void wait_for_kernel_before() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}
#else  // before Hopper a kernel begins when the one before has ended
__device__ inline void let_next_begin() {}
__device__ inline void wait_for_kernel_before() {}
#endif

}  // namespace sparrow::cuda
