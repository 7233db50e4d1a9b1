#include "cpu/widen.h"

#include "cpu/clones.h"

namespace sparrow::cpu {

// Overloads, not templates: target_clones does not mark templates.
#define CONVERSIONS(Element)                                                                \
  SPARROW_CLONES void widen(const Element* from, int64_t count, int64_t width, float* to) { \
    for (int64_t d = 0; d < count; ++d) to[d] = to_float(from[d]);                          \
    for (int64_t d = count; d < width; ++d) to[d] = 0.0f;                                   \
  }                                                                                         \
  SPARROW_CLONES void narrow(const float* from, float factor, int64_t count, Element* to) { \
    for (int64_t d = 0; d < count; ++d) from_float(from[d] * factor, &to[d]);               \
  }
CONVERSIONS(float)
CONVERSIONS(Half)
CONVERSIONS(BFloat16)
#undef CONVERSIONS

}  // namespace sparrow::cpu
