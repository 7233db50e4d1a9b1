#include "cpu/levels.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

namespace sparrow::cpu {
namespace {

Level of_machine() {
#if defined(SPARROW_HAS_LEVELS)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Level::kBaseline;
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return has_avx512 ? Level::kAvx512 : Level::kAvx2;
#else
  return Level::kBaseline;
#endif
}

Level allowed() {
  const char* given = std::getenv("SPARROW_CPU_LEVEL");
  const std::string name = given == nullptr ? "" : given;
  if (name.empty() || name == "avx512") return Level::kAvx512;
  if (name == "avx2") return Level::kAvx2;
  if (name == "baseline") return Level::kBaseline;
  throw std::invalid_argument("SPARROW_CPU_LEVEL must be baseline, avx2 or avx512, got " + name);
}

}  // namespace

Level level() {
  static const Level chosen = std::min(of_machine(), allowed());
  return chosen;
}

std::string level_in_words() {
  try {
    constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};
    return kNames[static_cast<int>(level())];
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

}  // namespace sparrow::cpu
