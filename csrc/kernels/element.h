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
// e4m3 without infinities: what engines keep caches in, times a scale that lies beside them.
struct Float8 {
  uint8_t bits;
};
static_assert(sizeof(Half) == 2 && sizeof(BFloat16) == 2 && sizeof(Float8) == 1);

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

SPARROW_HD inline float to_float(Float8 value) {
  // The sign is spread, so that it and the magnitude move up together.
  const uint32_t moved = static_cast<uint32_t>(int32_t{static_cast<int8_t>(value.bits)}) << 20;
  const uint32_t magnitude = moved & 0x07f00000u;
  const float normal = float_of(magnitude + 0x3c000000u);
  // Below 2^-6 the leading one is not there, and what is left counts twice. No subnormal float
  // takes part, which would cost a trap in microcode, or be flushed.
  const float subnormal = normal + (normal - 0x1p-6f);
  const uint32_t finite = bits_of(normal < subnormal ? normal : subnormal);
  return float_of((moved & 0x80000000u) | (magnitude == 0x07f00000u ? 0x7ff00000u : finite));
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

// Saturates at 448, infinities too; a NaN stays one.
SPARROW_HD inline void from_float(float value, Float8* element) {
  const uint32_t sign = (bits_of(value) >> 24) & 0x80u;
  const uint32_t given = bits_of(value) & 0x7fffffffu;
  const uint32_t bits = given < 0x43e00000u ? given : 0x43e00000u;
  const uint32_t normal = (bits - 0x3c000000u + 0x7ffffu + ((bits >> 20) & 1u)) >> 20;
  // As of Half: 2^14 lines the last bit of a subnormal, 2^-9, up with that of the float.
  const uint32_t subnormal = bits_of(float_of(bits) + 0x1p14f) - 0x46800000u;
  const uint32_t finite = bits < 0x3c800000u ? subnormal : normal;
  element->bits = static_cast<uint8_t>(sign | (given > 0x7f800000u ? 0x7fu : finite));
}

}  // namespace sparrow
