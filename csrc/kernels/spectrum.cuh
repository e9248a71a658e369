// The discrete Fourier transform of one to four faces, in real arithmetic.
//
//   X_m = sum over r of x_r exp(-2 pi i m r / k)
//
// A real sequence of length 1, 2, 3 or 4 has 1, 2, 1 and 2 real components and, for 3 and 4, one
// complex one. Component order: {X_0}, {X_0, X_1}, {X_0, Re X_1, Im X_1}, {X_0, X_2, Re X_1, Im
// X_1}. The pull-back is a circular correlation, so its components are g_m conj(F_m).
#pragma once

#include "units.cuh"

namespace fuse_index {

constexpr float kHalfSqrt3 = 0.86602540378443864676f;
constexpr float kSqrt3 = 1.7320508075688772935f;

// In place: units of k faces become units of k components. Math: add, sub, fma, mul on V.
template <int K, class Math, class V>
__device__ __forceinline__ void to_spectrum(V (&x)[K]) {
  if constexpr (K == 2) {
    const V a = x[0], b = x[1];
    x[0] = Math::add(a, b);
    x[1] = Math::sub(a, b);
  } else if constexpr (K == 3) {
    const V a = x[0], b = x[1], c = x[2];
    const V s = Math::add(b, c);
    x[0] = Math::add(a, s);
    x[1] = Math::fma(-0.5f, s, a);
    x[2] = Math::mul(kHalfSqrt3, Math::sub(c, b));
  } else if constexpr (K == 4) {
    const V s0 = Math::add(x[0], x[2]), s1 = Math::add(x[1], x[3]);
    const V re = Math::sub(x[0], x[2]), im = Math::sub(x[3], x[1]);
    x[0] = Math::add(s0, s1);
    x[1] = Math::sub(s0, s1);
    x[2] = re;
    x[3] = im;
  }
}

// The inverse, in float.
template <int K>
__device__ __forceinline__ void from_spectrum(float (&y)[K]) {
  if constexpr (K == 2) {
    const float a = y[0], b = y[1];
    y[0] = 0.5f * (a + b);
    y[1] = 0.5f * (a - b);
  } else if constexpr (K == 3) {
    constexpr float third = 1.0f / 3.0f;
    const float a = y[0], re = y[1], im = y[2];
    y[0] = third * (a + 2.0f * re);
    y[1] = third * (a - re - kSqrt3 * im);
    y[2] = third * (a - re + kSqrt3 * im);
  } else if constexpr (K == 4) {
    const float plus = y[0] + y[1], minus = y[0] - y[1], re = 2.0f * y[2], im = 2.0f * y[3];
    y[0] = 0.25f * (plus + re);
    y[1] = 0.25f * (minus - im);
    y[2] = 0.25f * (plus - re);
    y[3] = 0.25f * (minus + im);
  }
}

// Plain float arithmetic for to_spectrum.
struct FloatMath {
  static __device__ __forceinline__ float add(float a, float b) { return a + b; }
  static __device__ __forceinline__ float sub(float a, float b) { return a - b; }
  static __device__ __forceinline__ float fma(float s, float b, float a) { return fmaf(s, b, a); }
  static __device__ __forceinline__ float mul(float s, float b) { return s * b; }
};

}  // namespace fuse_index
