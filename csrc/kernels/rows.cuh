// Gradient rows of many words, transformed once and laid out as the bulk kernel's copy engine and
// matrix unit want them.
//
// The words of a group are cut into tiles of 2 * kWords, one half for each block of a pair. For
// every half and every 64 bytes of target columns the workspace holds one block
//
//   [component][part of the split][step][half of the step][word][16 bytes]
//
// A lane of the matrix unit reads 16 bytes of a face row whole, four units of which two belong to
// each step; so the four units that a lane loads of a row go to four pieces of 16 bytes here.
#pragma once

#include "mma.cuh"
#include "spectrum.cuh"
#include "tile.cuh"

namespace fuse_index {

constexpr int kMostTube = 4;   // longer tubes have no transform here
constexpr int kMostParts = 8;  // of a sum

// What the bulk kernel needs to know of a tile, whose words the transform has found before.
template <int kWords>
struct alignas(16) FoundTile {
  struct Rows {
    int64_t source_row;
    int64_t p;
  };
  int64_t first_face;
  int tube;  // 0: no tile, or not one of this kernel
  int count;
  Rows word[kWords];
};

// Where things lie in the workspace of one call.
struct BulkPlan {
  unsigned char* rows;
  unsigned char* found;  // a FoundTile for every tile
  float* partial;        // sums of the parts but the first
  int* flags;            // a part has written its sums
  int64_t flag_count;
  int tiles;                   // upper bound
  int chunks;                  // 64-byte pieces of a target row
  int parts;                   // of the sum over the target width
  int bounds[kMostParts + 1];  // of the parts, which begin with a stage of faces, in chunks
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

// 16 bytes of every row of one word.
template <class T>
struct RowsSource {
  const T* from;  // in the first row
  int64_t width;
  int rows;  // none past the end of the columns

  __device__ __forceinline__ uint4 load(int row) const {
    if (row >= rows) return {0, 0, 0, 0};
    return __ldg(reinterpret_cast<const uint4*>(from + row * width));
  }
};

// Adds 16 bytes of a row to what one lane holds of all rows; kFirst: nothing is there yet.
template <class T, int K, bool kFirst>
__device__ __forceinline__ void add_row(const uint4& raw, int r,
                                        float (&x)[4][Units<T>::kPerUnit][K]) {
  const Unit units[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int u = 0; u < 4; ++u) {
    float v[Units<T>::kPerUnit];
    Units<T>::unpack(units[u], v);
#pragma unroll
    for (int e = 0; e < Units<T>::kPerUnit; ++e) x[u][e][r] = kFirst ? v[e] : x[u][e][r] + v[e];
  }
}

// One lane: transforms 16 bytes of every row of one word, of which the first K are in `first`, and
// stores its units of the four steps and halves; the four lanes of a word store 16 bytes together.
template <class T, int kWords, int K>
__device__ __forceinline__ void transform_rows(const RowsSource<T>& source, const uint4 (&first)[K],
                                               unsigned char* to) {
  using U = Units<T>;
  using L = RowsLayout<T, kWords>;
  float x[4][U::kPerUnit][K];
#pragma unroll
  for (int r = 0; r < K; ++r) add_row<T, K, true>(first[r], r, x);
  if (source.rows > K) {
#pragma unroll
    for (int r = 0; r < K; ++r) {
#pragma unroll 1
      for (int t = r + K; t < source.rows; t += K) add_row<T, K, false>(source.load(t), r, x);
    }
  }
#pragma unroll
  for (int u = 0; u < 4; ++u) {
#pragma unroll
    for (int e = 0; e < U::kPerUnit; ++e) to_spectrum<K, FloatMath>(x[u][e]);
#pragma unroll
    for (int i = 0; i < K; ++i) {
      float y[U::kPerUnit];
#pragma unroll
      for (int e = 0; e < U::kPerUnit; ++e) y[e] = x[u][e][i];
      Unit out[2] = {U::pack(y), 0};
      if constexpr (L::kParts == 2) split_tf32(out[0], out[0], out[1]);
#pragma unroll
      for (int h = 0; h < L::kParts; ++h) {
        *reinterpret_cast<Unit*>(to + ((i * L::kParts + h) * 4 + u) * kWords * 16) = out[h];
      }
    }
  }
}

}  // namespace fuse_index
