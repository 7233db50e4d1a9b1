// The exponential every softmax here is made of.
//
//   exp(x) = 2^n * e^r,  n = round(x / ln 2),  |r| <= ln(2) / 2,  e^r by a polynomial (2 ulp)
//
// Every multiply-add is one by name, so that a CPU and a GPU compute the same bits and sample the
// same token from the same logits.
#pragma once

#include <cmath>

#include "kernels/common.h"
#include "kernels/element.h"

namespace sparrow {

// Below this exp counts as 0: about the smallest normal float.
inline constexpr float kLowestExponent = -87.0f;

// exp(x) for x <= 0, -inf included; a NaN stays one.
SPARROW_HD inline __attribute__((always_inline)) float exp_of_nonpositive(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float shifted = fmaf(x, 1.44269504f, kRound);
  const float n = shifted - kRound;
  float r = fmaf(n, -0.693359375f, x);
  r = fmaf(n, 2.12194440e-4f, r);
  float e = 1.9875691500e-4f;
  e = fmaf(e, r, 1.3981999507e-3f);
  e = fmaf(e, r, 8.3334519073e-3f);
  e = fmaf(e, r, 4.1665795894e-2f);
  e = fmaf(e, r, 1.6666665459e-1f);
  e = fmaf(e, r, 5.0000001201e-1f);
  e = fmaf(e, r * r, r) + 1.0f;
  const float power = float_of((bits_of(shifted) - bits_of(kRound) + 127u) << 23);
  return x < kLowestExponent ? 0.0f : e * power;
}

}  // namespace sparrow
