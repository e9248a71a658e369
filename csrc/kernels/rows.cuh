// Gradient rows of many words, transformed once and laid out as the bulk kernel's copy engine and
// matrix unit want them.
//
// The words of a group are cut into tiles of 2 * kWords, one half for each block of a pair. For
// every half and every 64 bytes of target columns the workspace holds one block
//
//   [component][part of the split][step][half of the step][word][16 bytes]
//
// A lane of the matrix unit reads 16 bytes of a face row whole, four units of which two belong to
// each step; the units of the rows are therefore exchanged between the four lanes of a row here.
#pragma once

#include "mma.cuh"
#include "spectrum.cuh"
#include "tile.cuh"

namespace fuse_index {

constexpr int kRowsThreads = 256;
constexpr int kMostTube = 4;  // longer tubes have no transform here

// Where things lie in the workspace of one call.
struct BulkPlan {
  unsigned char* rows;
  float* partial;  // sums of the parts but the first
  int* flags;      // a part has written its sums
  int64_t flag_count;
  int tiles;   // upper bound
  int chunks;  // 64-byte pieces of a target row
  int parts;   // of the sum over the target width
};

template <class T, int kWords>
struct RowsLayout {
  static constexpr int kParts = Units<T>::kParts;
  static constexpr int kSpan = 64 / static_cast<int>(sizeof(T));  // target columns of a chunk
  static constexpr int kComponentBytes = kParts * kWords * 64;
  static constexpr int kChunkBytes = kMostTube * kComponentBytes;

  // Of half `half` of tile `tile`.
  static __host__ __device__ int64_t offset(int64_t tile, int half, int64_t chunks, int64_t chunk) {
    return ((tile * chunks + chunk) * 2 + half) * kChunkBytes;
  }
};

// Four lanes hold four units each; lane i receives unit i of all four.
__device__ __forceinline__ void exchange(Unit (&x)[4]) {
  const int lane = threadIdx.x & 3;
#pragma unroll
  for (int d = 1; d < 4; d *= 2) {
    const bool upper = lane & d;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & d) continue;
      const Unit sent = upper ? x[i] : x[i + d];
      const Unit got = __shfl_xor_sync(~0u, sent, d);
      if (upper) {
        x[i] = got;
      } else {
        x[i + d] = got;
      }
    }
  }
}

// One lane: 16 bytes of every row of one word. Lanes without a word take part in the exchange.
template <class T, int kWords, int K>
__device__ __forceinline__ void transform_rows(const PullBackArgs& args, const Word& word,
                                               int64_t at, bool active, unsigned char* to) {
  using U = Units<T>;
  using L = RowsLayout<T, kWords>;
  constexpr int kPer = U::kPerUnit;
  const auto load = [&](int t) {
    uint4 raw = {0, 0, 0, 0};
    if (t < word.q && at < args.d_tgt) {
      raw = __ldg(reinterpret_cast<const uint4*>(static_cast<const T*>(args.target_grad) +
                                                 (word.target_row + t) * args.d_tgt + at));
    }
    return raw;
  };
  uint4 first[K];  // all loads but those of surplus rows are in flight together
#pragma unroll
  for (int r = 0; r < K; ++r) first[r] = load(r);
  float x[4][kPer][K] = {};
#pragma unroll
  for (int r = 0; r < K; ++r) {
    const auto add = [&](const uint4& raw) {
      const Unit units[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        float v[kPer];
        U::unpack(units[u], v);
#pragma unroll
        for (int e = 0; e < kPer; ++e) x[u][e][r] += v[e];
      }
    };
    add(first[r]);
    for (int t = r + K; t < word.q; t += K) add(load(t));
  }
#pragma unroll
  for (int u = 0; u < 4; ++u) {
#pragma unroll
    for (int e = 0; e < kPer; ++e) to_spectrum<K, FloatMath>(x[u][e]);
  }
#pragma unroll
  for (int i = 0; i < K; ++i) {
    Unit out[L::kParts][4];
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      float y[kPer];
#pragma unroll
      for (int e = 0; e < kPer; ++e) y[e] = x[u][e][i];
      const Unit whole = U::pack(y);
      if constexpr (L::kParts == 2) {
        split_tf32(whole, out[0][u], out[L::kParts - 1][u]);
      } else {
        out[0][u] = whole;
      }
    }
#pragma unroll
    for (int h = 0; h < L::kParts; ++h) {
      exchange(out[h]);
      if (active) {
        *reinterpret_cast<uint4*>(to + (i * L::kParts + h) * kWords * 64) =
            make_uint4(out[h][0], out[h][1], out[h][2], out[h][3]);
      }
    }
  }
}

// Grid: (chunks, tiles).
template <class T, int kWords>
__global__ void __launch_bounds__(kRowsThreads)
    transform_rows_kernel(const PullBackArgs args, const BulkPlan plan) {
  using L = RowsLayout<T, kWords>;
  __shared__ Tile<2 * kWords> tile;
  __shared__ int counts[kMaxGroups];
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
  const int64_t first = blockIdx.x + static_cast<int64_t>(gridDim.x) * blockIdx.y;
  for (int64_t i = first * kRowsThreads + threadIdx.x; i < plan.flag_count;
       i += static_cast<int64_t>(gridDim.x) * gridDim.y * kRowsThreads) {
    plan.flags[i] = 0;
  }
  if (!find_tile(args, blockIdx.y, tile, counts) || tile.tube > kMostTube) return;
  const int piece = threadIdx.x & 3, chunk = blockIdx.x;
  const int64_t at = static_cast<int64_t>(chunk) * L::kSpan + piece * (L::kSpan / 4);
  for (int base = 0; base < tile.count; base += kRowsThreads / 4) {
    const int slot = base + threadIdx.x / 4, half = slot / kWords;
    const bool active = slot < tile.count;
    const Word word = active ? tile.word[slot] : Word{0, 0, 0, 0};
    unsigned char* to = plan.rows + L::offset(blockIdx.y, half, plan.chunks, chunk) +
                        (piece * kWords + slot % kWords) * 16;
    switch (tile.tube) {
      case 1:
        transform_rows<T, kWords, 1>(args, word, at, active, to);
        break;
      case 2:
        transform_rows<T, kWords, 2>(args, word, at, active, to);
        break;
      case 3:
        transform_rows<T, kWords, 3>(args, word, at, active, to);
        break;
      default:
        transform_rows<T, kWords, 4>(args, word, at, active, to);
    }
  }
}

}  // namespace fuse_index
