// Rows of elements to floats and back.
#pragma once

#include <cstdint>

#include "kernels/element.h"

namespace sparrow::cpu {

// to[0, width) = from[0, count), then zeros.
void widen(const float* from, int64_t count, int64_t width, float* to);
void widen(const Half* from, int64_t count, int64_t width, float* to);
void widen(const BFloat16* from, int64_t count, int64_t width, float* to);

// to[0, count) = from[0, count) * factor.
void narrow(const float* from, float factor, int64_t count, float* to);
void narrow(const float* from, float factor, int64_t count, Half* to);
void narrow(const float* from, float factor, int64_t count, BFloat16* to);

}  // namespace sparrow::cpu
