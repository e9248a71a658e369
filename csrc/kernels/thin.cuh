// fuse_index::pull_back for few words of a group and narrow faces, where latency is the cost.
//
// A column is one position s < k of one word. By the definition, pass j of k multiplies face j with
// one row a column, g[(s + j) mod k]: a plain product, whatever k is, so the code is short, which
// counts where every instruction is fetched for a few turns. No transform, no ring that warps
// share, no barrier but one at the end.
//
// A block owns 16 columns of the source width and up to 32 columns as above. The chunks of the
// target width (64 bytes of a row, see pull_back.cuh) are dealt to its warps in turn. A lane copies
// its own granules of face and gradient rows to shared memory, kDepth turns ahead, and reads them
// back: a queue of its own that needs no synchronization. It is short on purpose: the memory system
// serves requests in order, and what waits for the end of a long queue waits for all of it.
//
// float32: see the head of pull_back.cuh; every chunk is summed apart.
#pragma once

#include "thin_table.cuh"

namespace fuse_index {

template <class C>
struct ThinBlock {
  const PullBackArgs& args;
  const ThinTable<C>& table;
  const ThinTile& tile;
  Granule* queues;
  float* sums;  // in the place of the queues
  int row;      // first column of the source width
  int width;    // of the target
};

// The faces on their way to one lane: 16 bytes of two rows a turn.
template <class C>
struct FaceQueue {
  using T = typename C::Type;
  static constexpr int kStep = C::kWarps * C::kChunk;
  const T* from;
  int64_t lower;   // from the first row to the second
  int64_t stride;  // of a face
  int width;
  int first;  // target column of this lane
  int at;
  int left;  // faces of this pass
  int tube;
  int bytes[2];

  __device__ __forceinline__ FaceQueue(const ThinBlock<C>& b, int first_) : first(first_) {
    const int row = b.row + static_cast<int>(threadIdx.x & 31) / 4;
    width = b.width;
    lower = 8 * b.args.d_tgt;
    stride = b.args.d_src * b.args.d_tgt;
    from = static_cast<const T*>(b.args.faces) + b.tile.first_face * stride + row * b.args.d_tgt;
    bytes[0] = row < b.args.d_src ? 16 : 0;
    bytes[1] = row + 8 < b.args.d_src ? 16 : 0;
    at = first;
    left = tube = b.tile.tube;
  }

  // Says whether this was the last request of a face.
  __device__ __forceinline__ bool request(Granule* to) {
    const bool inside = at < width;  // an address of zero bytes is never read
    copy_async(to, from + at, inside ? bytes[0] : 0);
    copy_async(to + 32, from + lower + at, inside ? bytes[1] : 0);
    at += kStep;
    if (at - static_cast<int>(threadIdx.x % 4) * C::kElements < width) return false;
    at = first;
    from += stride;
    if (--left == 0) {
      left = tube;
      from -= tube * stride;
    }
    return true;
  }
};

// Gradient rows on their way to one lane: 16 bytes for each tile of 8 columns.
template <class C, int kTiles>
struct RowQueue {
  using T = typename C::Type;
  const T* from;
  int first[kTiles];  // row of the word in this pass
  int row[kTiles];
  int end[kTiles];
  int left;  // faces of this pass
  int tube;

  __device__ __forceinline__ explicit RowQueue(const ThinBlock<C>& b) {
    const int lane = threadIdx.x & 31;
    from = static_cast<const T*>(b.args.target_grad);
    left = tube = b.tile.tube;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      const int index = i * 8 + lane / 4;
      const bool used = index < b.tile.columns;
      const ThinColumn column = b.table.column[b.tile.first_column + (used ? index : 0)];
      const Word& word = b.table.word[column.word];
      first[i] = static_cast<int>(word.target_row);
      row[i] = first[i] + column.position;
      end[i] = used ? first[i] + word.q : 0;
    }
  }

  __device__ __forceinline__ void request(Granule* to, int at, int width) const {
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      copy_async(to + i * 32, from + static_cast<int64_t>(row[i]) * width + at,
                 row[i] < end[i] && at < width ? 16 : 0);
    }
  }

  // The next face meets the next position modulo the tube; after the last face, that of the target
  // tokens one tube further.
  __device__ __forceinline__ void next_face() {
    const bool wraps = --left == 0;
    if (wraps) left = tube;
#pragma unroll
    for (int i = 0; i < kTiles; ++i) {
      if (++row[i] == first[i] + tube) row[i] = first[i];
      if (wraps) {
        row[i] += tube;
        first[i] += tube;
      }
    }
  }
};

template <int kTiles>
using ThinSums = float[kTiles][4];

// Both steps of a chunk for all tiles.
template <class C, int kTiles>
__device__ __forceinline__ void multiply_chunk(const Granule (&face)[2],
                                               const Granule (&rows)[kTiles],
                                               ThinSums<kTiles>& sums) {
  using T = typename C::Type;
  Unit high[2][4], low[2][4];
#pragma unroll
  for (int step = 0; step < 2; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      high[step][i] = face[i & 1].u[2 * step + (i >> 1)];
      if constexpr (C::kParts == 2) low[step][i] = rest_of_tf32(high[step][i]);
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const auto& y = rows[tile].u;
    if constexpr (C::kParts == 2) {
      Unit rest[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) rest[i] = rest_of_tf32(y[i]);
      float apart[2][4] = {};  // two sums a chunk, small products first
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        mma<T>(apart[step], low[step], y[2 * step], y[2 * step + 1]);
      }
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        mma<T>(apart[step], high[step], rest[2 * step], rest[2 * step + 1]);
      }
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        mma<T>(apart[step], high[step], y[2 * step], y[2 * step + 1]);
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) sums[tile][e] += apart[0][e] + apart[1][e];
    } else {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
        mma<T>(sums[tile], high[step], y[2 * step], y[2 * step + 1]);
      }
    }
  }
}

// Adds up the sums of all warps in their order, and stores them.
template <class C, int kTiles>
__device__ __forceinline__ void store_tile(const ThinBlock<C>& b, const ThinSums<kTiles>& sums) {
  using T = typename C::Type;
  constexpr int kAll = C::kColumns * C::kStride;
  const int lane = threadIdx.x & 31, tube = b.tile.tube;
  float* to = b.sums + threadIdx.x / 32 * kAll + lane / 4;
  __syncthreads();  // the queues are free
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      to[(tile * 8 + 2 * (lane % 4) + e % 2) * C::kStride + e / 2 * 8] = sums[tile][e];
    }
  }
  __syncthreads();
  for (int item = threadIdx.x; item < b.tile.columns * C::kRows; item += C::kThreads) {
    const int index = item / C::kRows, row = item % C::kRows;
    const float* from = b.sums + index * C::kStride + row;
    float sum = 0;
#pragma unroll
    for (int warp = 0; warp < C::kWarps; ++warp) sum += from[warp * kAll];
    const ThinColumn column = b.table.column[b.tile.first_column + index];
    const Word& word = b.table.word[column.word];
    const int64_t width = b.args.d_src;
    if (b.row + row >= width) continue;
    T* out = static_cast<T*>(b.args.out) + word.source_row * width + b.row + row;
    for (int s = column.position; s < word.p; s += tube) out[s * width] = Units<T>::round(sum);
  }
}

template <class C, int kTiles>
__device__ __forceinline__ void run_tile(const ThinBlock<C>& b) {
  const int start = static_cast<int>(threadIdx.x) / 32 * C::kChunk;
  const int first = start + static_cast<int>(threadIdx.x % 4) * C::kElements;
  const int chunks = (b.width - start + FaceQueue<C>::kStep - 1) / FaceQueue<C>::kStep;
  const int turns = start < b.width ? chunks * b.tile.tube * b.tile.passes : 0;
  FaceQueue<C> faces(b, first);
  RowQueue<C, kTiles> rows(b);
  Granule* const slots = b.queues + threadIdx.x / 32 * C::kQueue + (threadIdx.x & 31);
  Granule* const end = slots + C::kQueue;
  Granule *to = slots, *from = slots;
  ThinSums<kTiles> sums = {};
#pragma unroll 1
  for (int turn = -C::kDepth; turn < turns; ++turn) {
    Granule face[2], row[kTiles];
    if (turn >= 0) {
      copy_wait<C::kDepth - 1>();
      face[0] = from[0];
      face[1] = from[32];
#pragma unroll
      for (int i = 0; i < kTiles; ++i) row[i] = from[64 + i * 32];
      from += C::kTurn;
      if (from == end) from = slots;
    }
    if (turn + C::kDepth < turns) {
      rows.request(to + 64, faces.at, b.width);
      if (faces.request(to)) rows.next_face();
      to += C::kTurn;
      if (to == end) to = slots;
    }
    copy_commit();
    if (turn >= 0) multiply_chunk<C, kTiles>(face, row, sums);
  }
  store_tile<C, kTiles>(b, sums);
}

// Grid: in x blocks that take turns at the tiles and columns, in y blocks of kThinWords words.
template <class C>
__global__ void __launch_bounds__(C::kThreads, 1) thin_kernel(const PullBackArgs args) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto& table = *reinterpret_cast<ThinTable<C>*>(memory + C::kWork);
#if __CUDA_ARCH__ >= 900
  // The launch may have overtaken what came before it, and the next may overtake this one.
  asm volatile("griddepcontrol.wait;\n griddepcontrol.launch_dependents;" ::: "memory");
#endif
  if (threadIdx.x < 32) find_tiles(args, table);
  __syncthreads();
  const unsigned blocks = (static_cast<unsigned>(args.d_src) + C::kRows - 1) / C::kRows;
  const unsigned items = table.tiles * blocks;
#pragma unroll 1
  for (unsigned item = blockIdx.x; item < items; item += gridDim.x) {
    const ThinTile& tile = table.tile[item / blocks];
    const ThinBlock<C> b{args,
                         table,
                         tile,
                         reinterpret_cast<Granule*>(memory),
                         reinterpret_cast<float*>(memory),
                         static_cast<int>(item % blocks) * C::kRows,
                         static_cast<int>(args.d_tgt)};
    switch ((tile.columns + 7) / 8) {
      case 1:
        run_tile<C, 1>(b);
        break;
      case 2:
        run_tile<C, 2>(b);
        break;
      case 3:
        run_tile<C, 3>(b);
        break;
      default:
        run_tile<C, 4>(b);
    }
    __syncthreads();  // the sums have been read
  }
}

}  // namespace fuse_index
