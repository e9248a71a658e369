// The bulk kernel: how sums become rows of the result, by way of shared memory, so that rows are
// written in one piece.
#pragma once

#include "bulk_products.cuh"

namespace fuse_index {

// Nobody reads the ring any more.
template <class C>
__device__ __forceinline__ void wait_for_consumers() {
  hopper::named_sync(1 + C::kConsumers, 128 * C::kConsumers);
}

// float: stages as [component][word][column].
template <class C, int K>
__device__ __forceinline__ void stage_floats(const float (&sums)[K][C::kSums], float* stage) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x & 31;
#pragma unroll
  for (int e = 0; e < C::kSums; ++e) {
    float y[K];
#pragma unroll
    for (int i = 0; i < K; ++i) y[i] = sums[i][e];
    from_spectrum<K>(y);
    const int slot = e / 4 * 8 + 2 * (lane % 4) + (e & 1);
    const int column = warp * 16 + row_of_lane(lane) + 8 * (e >> 1 & 1);
#pragma unroll
    for (int i = 0; i < K; ++i) stage[(i * C::kWords + slot) * C::kPitch + column] = y[i];
  }
}

// Half precision: likewise, rounded, two by two matrices of 8 words and 8 columns at a time. Of
// these a lane holds two words of one column; they are stored with 8 columns of a word side by
// side, in the order of row_of_lane, which OutPiece undoes.
template <class C, int K>
__device__ __forceinline__ void stage_halves(const float (&sums)[K][C::kSums],
                                             typename C::Type* stage) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x & 31;
  const int slot = lane / 16 * 8 + lane % 8, column = warp * 16 + lane / 8 % 2 * 8;
  typename C::Type* mine = stage + slot * C::kPitch + column;  // of the matrix of lane / 8
#pragma unroll
  for (int s = 0; s < C::kSums / 8; ++s) {
    Unit out[K][4];
#pragma unroll
    for (int m = 0; m < 4; ++m) {
      const int e = s * 8 + m * 2;
      float x[K], y[K];
#pragma unroll
      for (int i = 0; i < K; ++i) x[i] = sums[i][e], y[i] = sums[i][e + 1];
      from_spectrum<K>(x);
      from_spectrum<K>(y);
#pragma unroll
      for (int i = 0; i < K; ++i) out[i][m] = Units<typename C::Type>::pack({x[i], y[i]});
    }
#pragma unroll
    for (int i = 0; i < K; ++i) {
      hopper::store_matrices(mine + (i * C::kWords + s * 16) * C::kPitch, out[i]);
    }
  }
}

// 16 bytes of a row of the result.
template <class T>
struct OutPiece {
  static constexpr int kColumns = 16 / static_cast<int>(sizeof(T));
  Granule x;

  __device__ __forceinline__ void read(const T* from) {
    x = *reinterpret_cast<const Granule*>(from);
    if constexpr (sizeof(T) == 2) {  // columns 0, 4, 1, 5, 2, 6, 3, 7
      const Granule y = x;
      x.u[0] = __byte_perm(y.u[0], y.u[1], 0x5410);
      x.u[1] = __byte_perm(y.u[2], y.u[3], 0x5410);
      x.u[2] = __byte_perm(y.u[0], y.u[1], 0x7632);
      x.u[3] = __byte_perm(y.u[2], y.u[3], 0x7632);
    }
  }
  __device__ __forceinline__ void write(T* to, int64_t columns, bool aligned) const {
    if (aligned && columns >= kColumns) {
      *reinterpret_cast<Granule*>(to) = x;
    } else {
#pragma unroll
      for (int e = 0; e < kColumns; ++e) {
        if (e < columns) to[e] = reinterpret_cast<const T*>(&x)[e];
      }
    }
  }
};

// Stores what a warpgroup has staged. A warp stores a few rows at a time and has read the next few
// before: one after another, every row would wait for its reads.
template <class C, int K>
__device__ __forceinline__ void store_rows(const BulkBlock<C>& b, const typename C::Type* stage) {
  using T = typename C::Type;
  using Piece = OutPiece<T>;
  constexpr int kLanes = C::kColumns / Piece::kColumns, kRows = 4 * 32 / kLanes, kBatch = 4;
  const int group = threadIdx.x / 128, lane = threadIdx.x % kLanes * Piece::kColumns;
  const int64_t width = b.args.d_src, column = b.column() + lane;
  const bool aligned =
      (reinterpret_cast<uintptr_t>(b.args.out) | static_cast<uintptr_t>(width * sizeof(T))) % 16 ==
      0;
  const int rows = b.words(group) * K;
  for (int base = threadIdx.x % 128 / kLanes; base < rows; base += kBatch * kRows) {
    Piece piece[kBatch];
    typename FoundTile<2 * C::kWords>::Rows word[kBatch];
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const int row = min(base + n * kRows, rows - 1), slot = row / K;
      word[n] = b.tile.word[group * C::kWords + slot];
      piece[n].read(stage + (row % K * C::kWords + slot) * C::kPitch + lane);
    }
#pragma unroll
    for (int n = 0; n < kBatch; ++n) {
      const int row = base + n * kRows;
      if (row >= rows) break;
      for (int64_t s = row % K; s < word[n].p; s += K) {
        piece[n].write(static_cast<T*>(b.args.out) + (word[n].source_row + s) * width + column,
                       width - column, aligned);
      }
    }
  }
}

template <class C, int K>
__device__ __forceinline__ void store_sums(const BulkBlock<C>& b,
                                           const float (&sums)[K][C::kSums]) {
  const int group = threadIdx.x / 128;
  wait_for_consumers<C>();
  auto* stage = reinterpret_cast<typename C::Type*>(b.faces + group * C::kStage);
  if constexpr (sizeof(*stage) == 2) {
    stage_halves<C, K>(sums, stage);
  } else {
    stage_floats<C, K>(sums, stage);
  }
  hopper::named_sync(1 + group, 128);
  store_rows<C, K>(b, stage);
}

}  // namespace fuse_index
