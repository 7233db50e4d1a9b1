// One binary, the vector width of the machine it runs on.
#pragma once

// g++ compiles a marked function once for each level and picks one when the library loads. Loops
// must carry their own lanes: nothing here licenses the compiler to reorder a sum, so the result is
// the same bits at every level. ThreadSanitizer instruments the choice too, which then runs before
// its runtime can be called.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__) && \
    !defined(__SANITIZE_THREAD__)
#if __GNUC__ >= 12  // levels with fused multiply-add, which `fma` in a loop would else call for
#define SPARROW_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define SPARROW_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
#define SPARROW_CLONES
#endif

// What a marked function calls must become part of it, or it stays at the default level.
#define SPARROW_INLINE inline __attribute__((always_inline))
