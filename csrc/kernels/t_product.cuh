// fuse_index::t_product: C[t] = sum over s of A[s] @ B[(t - s) mod k], one launch for a whole
// batch.
//
// Made for many small products, where launches cost more than arithmetic; Python sends large ones
// to the composition of library products (docs/kernels.md has the crossover). A block owns 64 x 64
// elements of one face of one product; the sum runs over all pairs of faces in a fixed order.
#pragma once

#include "args.h"
#include "units.cuh"

namespace fuse_index {

constexpr int kProductTile = 64;
constexpr int kProductStep = 16;
constexpr int kProductThreads = 256;  // 16 x 16, four by four elements each

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

template <class T>
__global__ void __launch_bounds__(kProductThreads)
    t_product_kernel(const TProductArgs args, int64_t rows, int64_t columns) {
  __shared__ float left[kProductStep][kProductTile + 4];  // transposed
  __shared__ float right[kProductStep][kProductTile];
  const int64_t tile = blockIdx.x;
  const int64_t column0 = tile % columns * kProductTile;
  const int64_t row0 = tile / columns % rows * kProductTile;
  const int64_t face = tile / (columns * rows);  // of all products
  const int64_t item = face / args.tube, t = face % args.tube;
  const T* a = static_cast<const T*>(args.a) + item * args.tube * args.n1 * args.n2;
  const T* b = static_cast<const T*>(args.b) + item * args.tube * args.n2 * args.n3;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  float sum[4][4] = {};
  for (int64_t s = 0; s < args.tube; ++s) {
    const T* left_face = a + s * args.n1 * args.n2;
    const T* right_face = b + (t - s + args.tube) % args.tube * args.n2 * args.n3;
    for (int64_t k0 = 0; k0 < args.n2; k0 += kProductStep) {
      __syncthreads();
      for (int i = threadIdx.x; i < kProductTile * kProductStep; i += kProductThreads) {
        const int r = i / kProductStep, k = i % kProductStep;
        const bool inside = row0 + r < args.n1 && k0 + k < args.n2;
        left[k][r] = inside ? to_float(left_face[(row0 + r) * args.n2 + k0 + k]) : 0.0f;
      }
      for (int i = threadIdx.x; i < kProductTile * kProductStep; i += kProductThreads) {
        const int k = i / kProductTile, c = i % kProductTile;
        const bool inside = column0 + c < args.n3 && k0 + k < args.n2;
        right[k][c] = inside ? to_float(right_face[(k0 + k) * args.n3 + column0 + c]) : 0.0f;
      }
      __syncthreads();
#pragma unroll
      for (int k = 0; k < kProductStep; ++k) {
        const float4 u = *reinterpret_cast<const float4*>(&left[k][4 * y]);
        const float4 v = *reinterpret_cast<const float4*>(&right[k][4 * x]);
        const float us[4] = {u.x, u.y, u.z, u.w}, vs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
#pragma unroll
          for (int j = 0; j < 4; ++j) sum[i][j] = fmaf(us[i], vs[j], sum[i][j]);
        }
      }
    }
  }
  T* out = static_cast<T*>(args.out) + face * args.n1 * args.n3;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const int64_t r = row0 + 4 * y + i, c = column0 + 4 * x + j;
      if (r < args.n1 && c < args.n3) out[r * args.n3 + c] = Units<T>::round(sum[i][j]);
    }
  }
}

}  // namespace fuse_index
