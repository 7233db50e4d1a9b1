// The floating-point elements kernels read and write, and their conversion from and to float.
//
// Plain bit arithmetic: the same on every compiler and device, and without branches, so that loops
// over it vectorise. Rounding is to nearest, ties to even, as torch's own conversions do.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/common.h"

namespace sparrow {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};
static_assert(sizeof(Half) == 2 && sizeof(BFloat16) == 2);

SPARROW_HD inline uint32_t bits_of(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof(bits));
  return bits;
}

SPARROW_HD inline float float_of(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

SPARROW_HD inline float to_float(float value) { return value; }

SPARROW_HD inline float to_float(BFloat16 value) { return float_of(uint32_t{value.bits} << 16); }

SPARROW_HD inline float to_float(Half value) {
  const uint32_t sign = uint32_t{value.bits & 0x8000u} << 16;
  const uint32_t magnitude = value.bits & 0x7fffu;
  // The exponent field moves over unchanged; 2^112 then corrects its bias, subnormals included.
  const uint32_t finite = bits_of(float_of(magnitude << 13) * 0x1p112f);
  const uint32_t special = 0x7f800000u | (magnitude << 13);
  return float_of(sign | (magnitude >= 0x7c00u ? special : finite));
}

SPARROW_HD inline void from_float(float value, float* element) { *element = value; }

SPARROW_HD inline void from_float(float value, BFloat16* element) {
  const uint32_t bits = bits_of(value);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  element->bits = static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
}

SPARROW_HD inline void from_float(float value, Half* element) {
  const uint32_t sign = (bits_of(value) >> 16) & 0x8000u;
  const uint32_t bits = bits_of(value) & 0x7fffffffu;
  const uint32_t normal = (bits - 0x38000000u + 0xfffu + ((bits >> 13) & 1u)) >> 13;
  // Below 2^-14 the result is subnormal: adding 0.5 lines its last bit up with that of the float.
  const uint32_t subnormal = bits_of(float_of(bits) + 0.5f) - 0x3f000000u;
  const uint32_t finite = bits < 0x38800000u ? subnormal : normal;
  const uint32_t overflowed = bits >= 0x477ff000u ? 0x7c00u : finite;
  element->bits = static_cast<uint16_t>(sign | (bits > 0x7f800000u ? 0x7e00u : overflowed));
}

}  // namespace sparrow
