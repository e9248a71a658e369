// Storage types as 32-bit units (one float, or two half-precision values) and their arithmetic.
//
// Kernels move data in granules of 16 bytes (four units) and feed units straight to the matrix
// instructions; only the sums of the Fourier transform look inside them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace fuse_index {

using Unit = uint32_t;

// One 16-byte granule.
struct alignas(16) Granule {
  Unit u[4];
};

template <class T>
struct Units;

template <>
struct Units<float> {
  static constexpr int kPerUnit = 1;
  static constexpr int kParts = 2;  // an operand is split in two TF32 numbers
  static __device__ __forceinline__ Unit add(Unit a, Unit b) {
    return __float_as_uint(__uint_as_float(a) + __uint_as_float(b));
  }
  static __device__ __forceinline__ Unit sub(Unit a, Unit b) {
    return __float_as_uint(__uint_as_float(a) - __uint_as_float(b));
  }
  // a + scale * b
  static __device__ __forceinline__ Unit fma(float scale, Unit b, Unit a) {
    return __float_as_uint(fmaf(scale, __uint_as_float(b), __uint_as_float(a)));
  }
  static __device__ __forceinline__ Unit mul(float scale, Unit b) {
    return __float_as_uint(scale * __uint_as_float(b));
  }
  static __device__ __forceinline__ Unit neg(Unit a) { return a ^ 0x80000000u; }
  static __device__ __forceinline__ void unpack(Unit a, float (&x)[1]) {
    x[0] = __uint_as_float(a);
  }
  static __device__ __forceinline__ Unit pack(const float (&x)[1]) { return __float_as_uint(x[0]); }
  static __device__ __forceinline__ Unit load(const float* p, int valid) {
    return valid > 0 ? __float_as_uint(__ldg(p)) : 0u;
  }
  static __device__ __forceinline__ float round(float x) { return x; }
};

template <>
struct Units<__nv_bfloat16> {
  static constexpr int kPerUnit = 2;
  static constexpr int kParts = 1;
  static constexpr bool kBrain = true;
  static __device__ __forceinline__ __nv_bfloat162 v(Unit a) {
    __nv_bfloat162 r;
    *reinterpret_cast<Unit*>(&r) = a;
    return r;
  }
  static __device__ __forceinline__ Unit w(__nv_bfloat162 a) {
    return *reinterpret_cast<Unit*>(&a);
  }
  static __device__ __forceinline__ Unit add(Unit a, Unit b) { return w(__hadd2(v(a), v(b))); }
  static __device__ __forceinline__ Unit sub(Unit a, Unit b) { return w(__hsub2(v(a), v(b))); }
  static __device__ __forceinline__ Unit fma(float scale, Unit b, Unit a) {
    return w(__hfma2(__float2bfloat162_rn(scale), v(b), v(a)));
  }
  static __device__ __forceinline__ Unit mul(float scale, Unit b) {
    return w(__hmul2(__float2bfloat162_rn(scale), v(b)));
  }
  static __device__ __forceinline__ Unit neg(Unit a) { return a ^ 0x80008000u; }
  static __device__ __forceinline__ void unpack(Unit a, float (&x)[2]) {
    x[0] = __uint_as_float(a << 16);
    x[1] = __uint_as_float(a & 0xffff0000u);
  }
  static __device__ __forceinline__ Unit pack(const float (&x)[2]) {
    return w(__floats2bfloat162_rn(x[0], x[1]));
  }
  static __device__ __forceinline__ Unit load(const __nv_bfloat16* p, int valid) {
    const auto* q = reinterpret_cast<const unsigned short*>(p);
    const Unit low = valid > 0 ? __ldg(q) : 0u;
    const Unit high = valid > 1 ? __ldg(q + 1) : 0u;
    return low | (high << 16);
  }
  static __device__ __forceinline__ __nv_bfloat16 round(float x) { return __float2bfloat16_rn(x); }
};

template <>
struct Units<__half> {
  static constexpr int kPerUnit = 2;
  static constexpr int kParts = 1;
  static constexpr bool kBrain = false;
  static __device__ __forceinline__ __half2 v(Unit a) {
    __half2 r;
    *reinterpret_cast<Unit*>(&r) = a;
    return r;
  }
  static __device__ __forceinline__ Unit w(__half2 a) { return *reinterpret_cast<Unit*>(&a); }
  static __device__ __forceinline__ Unit add(Unit a, Unit b) { return w(__hadd2(v(a), v(b))); }
  static __device__ __forceinline__ Unit sub(Unit a, Unit b) { return w(__hsub2(v(a), v(b))); }
  static __device__ __forceinline__ Unit fma(float scale, Unit b, Unit a) {
    return w(__hfma2(__float2half2_rn(scale), v(b), v(a)));
  }
  static __device__ __forceinline__ Unit mul(float scale, Unit b) {
    return w(__hmul2(__float2half2_rn(scale), v(b)));
  }
  static __device__ __forceinline__ Unit neg(Unit a) { return a ^ 0x80008000u; }
  static __device__ __forceinline__ void unpack(Unit a, float (&x)[2]) {
    const float2 f = __half22float2(v(a));
    x[0] = f.x;
    x[1] = f.y;
  }
  static __device__ __forceinline__ Unit pack(const float (&x)[2]) {
    return w(__floats2half2_rn(x[0], x[1]));
  }
  static __device__ __forceinline__ Unit load(const __half* p, int valid) {
    const auto* q = reinterpret_cast<const unsigned short*>(p);
    const Unit low = valid > 0 ? __ldg(q) : 0u;
    const Unit high = valid > 1 ? __ldg(q + 1) : 0u;
    return low | (high << 16);
  }
  static __device__ __forceinline__ __half round(float x) { return __float2half_rn(x); }
};

}  // namespace fuse_index
