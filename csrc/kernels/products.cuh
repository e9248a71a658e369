// The general pull-back kernel: the products of one chunk.
#pragma once

#include "chains.cuh"
#include "ring.cuh"

namespace fuse_index {

// Accumulators of one warp: 16 source columns by 8 * kTiles words.
template <class C, int kMode>
using Accumulators = float[Mode<kMode>::kComponents][C::kTiles][4];

// A fragment of one component for both steps of a chunk; two parts for float32.
template <class C>
struct Fragment {
  Unit part[C::kParts][2][4];

  __device__ __forceinline__ void set(const Granule& upper, const Granule& lower) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const Unit a[4] = {upper.u[2 * step], lower.u[2 * step], upper.u[2 * step + 1],
                         lower.u[2 * step + 1]};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (C::kParts == 2) {
          split_tf32(a[i], part[0][step][i], part[C::kParts - 1][step][i]);
        } else {
          part[0][step][i] = a[i];
        }
      }
    }
  }

  __device__ __forceinline__ void negate() {
#pragma unroll
    for (int h = 0; h < C::kParts; ++h) {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          part[h][step][i] = Units<typename C::Type>::neg(part[h][step][i]);
        }
      }
    }
  }
};

// Operand of one component, one tile of 8 words, one chunk.
template <class C>
struct Column {
  Granule part[C::kParts];

  __device__ __forceinline__ void load(const Granule* from, int component, int tile) {
#pragma unroll
    for (int h = 0; h < C::kParts; ++h) {
      part[h] = from[(component * C::kParts + h) * C::kWords * kChunkGranules + tile * 32 +
                     (threadIdx.x & 31)];
    }
  }
};

// All products of one chunk. kFull: no tile of the warp is empty, so that there is no branch
// between the tiles and their products overlap.
template <class C, int kMode, bool kFull>
__device__ __forceinline__ void compute(const Granule* faces, const Granule* operand, int warp_n,
                                        int warp_w, int tiles, Accumulators<C, kMode>& acc) {
  using T = typename C::Type;
  using M = Mode<kMode>;
  constexpr int kN = M::kComponents, kF = M::kFaces;
  using P = Chains<kMode>;
  Fragment<C> a[kF + 1];  // the last is - Im F
  {
    Granule half[2][kF];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int j = 0; j < kF; ++j) {
        half[h][j] =
            faces[j * C::kWarpsK * C::kFaceChunk + (warp_n * 2 + h) * 32 + (threadIdx.x & 31)];
      }
      if constexpr (kMode > 1) {
#pragma unroll
        for (int unit = 0; unit < 4; ++unit) {
          Unit x[kF];
#pragma unroll
          for (int j = 0; j < kF; ++j) x[j] = half[h][j].u[unit];
          to_spectrum<kF, Units<T>>(x);
#pragma unroll
          for (int j = 0; j < kF; ++j) half[h][j].u[unit] = x[j];
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kF; ++j) a[j].set(half[0][j], half[1][j]);
  }
  if constexpr (kMode > 2) {
    a[kF] = a[kF - 1];
    a[kF].negate();
  }
#pragma unroll
  for (int tile = 0; tile < C::kTiles; ++tile) {
    if (!kFull && tile >= tiles) break;
    Column<C> b[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) b[i].load(operand, i, warp_w * C::kTiles + tile);
    const auto left = [](int i) { return P::negative(i) ? kF : P::left(i); };
    if constexpr (C::kParts == 2) {
      // Chains are summed apart, small products first; see the head of pull_back.cuh.
      float apart[P::kCount][4] = {};
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int term = 0; term < 3; ++term) {
#pragma unroll
          for (int i = 0; i < P::kCount; ++i) {
            const auto& x = a[left(i)].part[term == 0 ? 1 : 0][step];
            const auto& y = b[P::right(i)].part[term == 1 ? 1 : 0];
            mma<T>(apart[i], x, y.u[2 * step], y.u[2 * step + 1]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < P::kCount; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[P::into(i)][tile][e] += apart[i][e];
      }
    } else {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int i = 0; i < P::kCount; ++i) {
          const auto& y = b[P::right(i)].part[0];
          mma<T>(acc[P::into(i)][tile], a[left(i)].part[0][step], y.u[2 * step], y.u[2 * step + 1]);
        }
      }
    }
  }
}

}  // namespace fuse_index
