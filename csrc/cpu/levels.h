// Which of a kernel's compilations runs: the vector unit of the machine, or a lesser one on demand.
#pragma once

#include <string>

namespace sparrow::cpu {

enum class Level { kBaseline = 0, kAvx2 = 1, kAvx512 = 2 };

// The highest that this machine has and SPARROW_CPU_LEVEL (baseline, avx2, avx512) allows.
// std::invalid_argument for any other name.
Level level();

// The same for people: its name, or what is wrong with the one given.
std::string level_in_words();

// On a lambda that at_level runs.
#define SPARROW_INLINED __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__)
#define SPARROW_HAS_LEVELS 1
#define SPARROW_AVX2 __attribute__((target("avx2,fma")))
#define SPARROW_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))
#endif

// body(), compiled for each level. It and what it calls must be inlined, or they stay at baseline.
template <typename Body>
void at_baseline(const Body& body) {
  body();
}
#if defined(SPARROW_HAS_LEVELS)
template <typename Body>
SPARROW_AVX2 void at_avx2(const Body& body) {
  body();
}
template <typename Body>
SPARROW_AVX512 void at_avx512(const Body& body) {
  body();
}
#endif

template <typename Body>
void at_level(const Body& body) {
#if defined(SPARROW_HAS_LEVELS)
  if (level() == Level::kAvx512) return at_avx512(body);
  if (level() == Level::kAvx2) return at_avx2(body);
#endif
  at_baseline(body);
}

}  // namespace sparrow::cpu
