// Vectors of floats as wide as a processor's registers, in the compiler's own types.
//
// Everything here must become part of the function that is compiled for a processor (levels.h), so
// it is all inlined.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "cpu/clones.h"
#include "kernels/element.h"
#include "kernels/exp.h"

namespace sparrow::cpu {

// By lanes. Not a template: g++ drops the attribute of a type whose size depends on one.
template <int kLanes>
struct VectorTypes;
template <>
struct VectorTypes<4> {
  typedef float Floats __attribute__((vector_size(16)));
  typedef int32_t Ints __attribute__((vector_size(16)));
};
template <>
struct VectorTypes<8> {
  typedef float Floats __attribute__((vector_size(32)));
  typedef int32_t Ints __attribute__((vector_size(32)));
};
template <>
struct VectorTypes<16> {
  typedef float Floats __attribute__((vector_size(64)));
  typedef int32_t Ints __attribute__((vector_size(64)));
};

template <int kWidth>
struct Vector {
  static constexpr int kLanes = kWidth;
  using Floats = typename VectorTypes<kLanes>::Floats;
  using Ints = typename VectorTypes<kLanes>::Ints;

  static SPARROW_INLINE Floats load(const float* from) {
    Floats x;
    memcpy(&x, from, sizeof(x));
    return x;
  }
  // 16-bit elements: the compiler makes vectors of the loop.
  template <typename Element>
  static SPARROW_INLINE Floats load(const Element* from) {
    float widened[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) widened[lane] = to_float(from[lane]);
    return load(widened);
  }
  static SPARROW_INLINE void store(Floats x, float* to) { memcpy(to, &x, sizeof(x)); }
  static SPARROW_INLINE Floats all(float value) {
    return all(value, std::make_integer_sequence<int, kLanes>());
  }
  static SPARROW_INLINE Floats larger(Floats a, Floats b) { return a > b ? a : b; }
  static SPARROW_INLINE Ints lane_bits() {
    Ints bits;
    for (int lane = 0; lane < kLanes; ++lane) bits[lane] = 1 << lane;
    return bits;
  }

  // Lane l of `x` where bit l of `mask` is set, of `other` elsewhere.
  static SPARROW_INLINE Floats select(uint64_t mask, Floats x, Floats other) {
    const Ints here = (lane_bits() & static_cast<int32_t>(mask)) != 0;
    return here ? x : other;
  }

  // exp(x) for x <= 0, as kernels/exp.h has it: 0 below -87; a NaN stays one.
  static SPARROW_INLINE Floats exp_of_nonpositive(Floats x) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    const Floats shifted = x * 1.44269504f + kRound;
    const Floats n = shifted - kRound;
    Floats r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    Floats e = r * 1.9875691500e-4f + 1.3981999507e-3f;
    e = e * r + 8.3334519073e-3f;
    e = e * r + 4.1665795894e-2f;
    e = e * r + 1.6666665459e-1f;
    e = e * r + 5.0000001201e-1f;
    e = e * (r * r) + r + 1.0f;
    Ints bits;
    memcpy(&bits, &shifted, sizeof(bits));
    const Ints power_bits = (bits - static_cast<int32_t>(bits_of(kRound)) + 127) << 23;
    Floats power;
    memcpy(&power, &power_bits, sizeof(power));
    return x < kLowestExponent ? Floats{} : e * power;
  }

  // The lanes in pairs of halves: the order does not depend on how wide the vector is beyond that.
  static SPARROW_INLINE float sum(Floats x) {
    float lanes[kLanes];
    store(x, lanes);
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    }
    return lanes[0];
  }
  static SPARROW_INLINE float largest(Floats x) {
    float lanes[kLanes];
    store(x, lanes);
    for (int half = kLanes / 2; half > 0; half /= 2) {
      for (int lane = 0; lane < half; ++lane) {
        lanes[lane] = lanes[lane] > lanes[lane + half] ? lanes[lane] : lanes[lane + half];
      }
    }
    return lanes[0];
  }

  // The sum of each of kLanes vectors, in their order.
  static SPARROW_INLINE Floats sums(Floats (&x)[kLanes]) {
    for (int left = kLanes / 2; left > 0; left /= 2) {
      for (int i = 0; i < left; ++i) {
        x[i] = every_other<0>(x[2 * i], x[2 * i + 1]) + every_other<1>(x[2 * i], x[2 * i + 1]);
      }
    }
    return x[0];
  }

  // A square of kLanes rows, turned: as many rounds of interleaving as a lane's number has bits.
  static SPARROW_INLINE void transpose(Floats (&x)[kLanes]) {
    for (int round = 1; round < kLanes; round *= 2) {
      Floats y[kLanes];
      for (int i = 0; i < kLanes / 2; ++i) {
        y[2 * i] = interleave<0>(x[i], x[i + kLanes / 2]);
        y[2 * i + 1] = interleave<kLanes / 2>(x[i], x[i + kLanes / 2]);
      }
      for (int i = 0; i < kLanes; ++i) x[i] = y[i];
    }
  }

 private:
  // Lane by lane: what g++ makes a broadcast of. `Floats{} + value` it adds up.
  template <int... kLane>
  static SPARROW_INLINE Floats all(float value, std::integer_sequence<int, kLane...>) {
    return Floats{(static_cast<void>(kLane), value)...};
  }

  // a[first], a[first + 2], ..., b[first], b[first + 2], ...
  template <int kFirst>
  static SPARROW_INLINE Floats every_other(Floats a, Floats b) {
    return every_other<kFirst>(a, b, std::make_integer_sequence<int, kLanes>());
  }
  template <int kFirst, int... kLane>
  static SPARROW_INLINE Floats every_other(Floats a, Floats b,
                                           std::integer_sequence<int, kLane...>) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, b, (kFirst + 2 * kLane)...);
#else
    return Floats{(2 * kLane < kLanes ? a : b)[(kFirst + 2 * kLane) % kLanes]...};
#endif
  }

  // a[first], b[first], a[first + 1], b[first + 1], ...
  template <int kFirst>
  static SPARROW_INLINE Floats interleave(Floats a, Floats b) {
    return interleave<kFirst>(a, b, std::make_integer_sequence<int, kLanes>());
  }
  template <int kFirst, int... kLane>
  static SPARROW_INLINE Floats interleave(Floats a, Floats b,
                                          std::integer_sequence<int, kLane...>) {
#if defined(__clang__) || __GNUC__ >= 12
    return __builtin_shufflevector(a, b, (kFirst + kLane / 2 + kLane % 2 * kLanes)...);
#else
    return Floats{(kLane % 2 ? b : a)[kFirst + kLane / 2]...};
#endif
  }
};

}  // namespace sparrow::cpu
