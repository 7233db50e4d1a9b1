// Registers implementations, under one name for every device this build has a driver for.
#pragma once

#include <torch/csrc/stable/library.h>

// The emulated library (csrc/emulation) stands beside the real one in a process.
#if defined(SPARROW_EMULATION)
#define SPARROW_NAMESPACE sparrow_emulated
#elif defined(TORCH_EXTENSION_NAME)  // a kernel of the Hub (build_hub.py): unique to its build
#define SPARROW_NAMESPACE TORCH_EXTENSION_NAME
#else
#define SPARROW_NAMESPACE sparrow_native
#endif

// SPARROW_IMPLEMENT(tree, library) { library.impl("build_tree", TORCH_BOX(&build_tree)); }
#define SPARROW_IMPLEMENT(family, library)                                                  \
  static void implement_##family(torch::stable::detail::StableLibrary&);                    \
  STABLE_TORCH_LIBRARY_IMPL(SPARROW_NAMESPACE, CPU, on_cpu) { implement_##family(on_cpu); } \
  SPARROW_IMPLEMENT_ON_CUDA(family)                                                         \
  void implement_##family(torch::stable::detail::StableLibrary& library)

#if defined(SPARROW_WITH_CUDA) && !defined(SPARROW_EMULATION)
#define SPARROW_IMPLEMENT_ON_CUDA(family) \
  STABLE_TORCH_LIBRARY_IMPL(SPARROW_NAMESPACE, CUDA, on_cuda) { implement_##family(on_cuda); }
#else
#define SPARROW_IMPLEMENT_ON_CUDA(family)
#endif

// An op without a CUDA driver: on a GPU its kernels are Triton's.
#define SPARROW_IMPLEMENT_ON_CPU(library) STABLE_TORCH_LIBRARY_IMPL(SPARROW_NAMESPACE, CPU, library)
