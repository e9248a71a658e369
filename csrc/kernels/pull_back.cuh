// fuse_index::pull_back on matrix units: one launch for a ragged batch of words of mixed groups.
//
//   out[s] = sum over t < q of g[t] @ F[(t - s) mod k]^T,   s < p
//
// A block owns kColumns columns of the source width, up to kWords words of one group and, in a
// cluster of `split` blocks, one part of the sum over the target width. It streams the faces once
// through a ring in shared memory and works in the transform domain (spectrum.cuh): 1, 2, 5 and 6
// matrix products for k = 1..4 instead of k * k. Longer tubes take the definition, four positions
// at a time. float32 is split in two TF32 numbers (three products); every 16 target columns are
// summed on the matrix unit, which truncates, and added up outside of it, which rounds.
//
// Fragments: a granule holds 16 bytes of a row, four lanes hold 64 bytes (a "chunk": 16 floats or
// 32 halves, two steps of the matrix instruction). The order of the sum inside a chunk is free, so
// lane c of four reads granule c whole: no shuffles, no bank conflicts, on both operands alike.
//
// Pipeline: turn i computes stage i, transforms the gradient of stage i + 1 into the other operand
// buffer and requests faces of stage i + kStages - 1 and gradient rows of stage i + kStages; one
// barrier a turn.
#pragma once

#include <cooperative_groups.h>

#include "feeder.cuh"
#include "products.cuh"

namespace fuse_index {

namespace cg = cooperative_groups;

__device__ __forceinline__ void sync_cluster(int split) {
#if __CUDA_ARCH__ >= 900
  if (split > 1) {
    cg::this_cluster().sync();
    return;
  }
#endif
  __syncthreads();
}

__device__ __forceinline__ const float* stage_of(float* mine, int rank, int split) {
#if __CUDA_ARCH__ >= 900
  if (split > 1) return cg::this_cluster().map_shared_rank(mine, rank);
#endif
  return mine;
}

// Writes the positions first .. first + 3 (long tubes) or all of the tube: sums the parts of the
// cluster in the order of their ranks, transforms back, stores.
template <class C, int kMode>
__device__ __forceinline__ void write_out(const Block<C>& b, Accumulators<C, kMode>& acc,
                                          int first) {
  using T = typename C::Type;
  constexpr int kN = Mode<kMode>::kComponents;
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int warp_n = warp % C::kWarpsN, warp_w = warp / C::kWarpsN % C::kWarpsW;
  const int warp_k = warp / (C::kWarpsN * C::kWarpsW);
  __syncthreads();  // the ring is free
#pragma unroll
  for (int i = 0; i < kN; ++i) {
#pragma unroll
    for (int tile = 0; tile < C::kTiles; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int slot = (warp_w * C::kTiles + tile) * 8 + 2 * (lane % 4) + (e & 1);
        const int row = warp_n * 16 + lane / 4 + 8 * (e >> 1);
        b.stage[((warp_k * kN + i) * C::kWords + slot) * C::kStride + row] = acc[i][tile][e];
      }
    }
  }
  sync_cluster(b.split);
  const int columns = C::kColumns / b.split, quads = columns / 4;
  for (int item = threadIdx.x; item < b.tile.count * quads; item += C::kThreads) {
    const int slot = item / quads, row = b.rank * columns + item % quads * 4;
    float4 sum[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) sum[i] = make_float4(0, 0, 0, 0);
    for (int part = 0; part < b.split * C::kWarpsK; ++part) {
      const float* stage = stage_of(b.stage, part / C::kWarpsK, b.split) +
                           part % C::kWarpsK * kN * C::kWords * C::kStride;
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const float4 v =
            *reinterpret_cast<const float4*>(stage + (i * C::kWords + slot) * C::kStride + row);
        sum[i].x += v.x;
        sum[i].y += v.y;
        sum[i].z += v.z;
        sum[i].w += v.w;
      }
    }
    const Word word = b.tile.word[slot];
    const int64_t column = b.column + row, width = b.args.d_src;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float y[kN];
#pragma unroll
      for (int i = 0; i < kN; ++i) y[i] = reinterpret_cast<const float*>(&sum[i])[e];
      if constexpr (kMode > 1) from_spectrum<kN>(y);
      if (column + e >= width) continue;
      T* out = static_cast<T*>(b.args.out) + word.source_row * width + column + e;
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        if (first + i >= b.tile.tube) continue;
        for (int s = first + i; s < word.p; s += b.tile.tube) {
          out[s * width] = Units<T>::round(y[i]);
        }
      }
    }
  }
  sync_cluster(b.split);  // nobody leaves or reuses the stage while others read it
}

template <class C, int kMode>
__device__ void run(const Block<C>& b) {
  using M = Mode<kMode>;
  constexpr int kStages = C::kStages;
  const int warp = threadIdx.x >> 5;
  const int warp_n = warp % C::kWarpsN, warp_w = warp / C::kWarpsN % C::kWarpsW;
  const int warp_k = warp / (C::kWarpsN * C::kWarpsW);
  const int tiles = min(C::kTiles, max(0, (b.tile.count + 7) / 8 - warp_w * C::kTiles));
  const int span = b.turn_to - b.turn_from, tube = b.tile.tube;
  // Long tubes: every face is one pass over the target columns; four positions at a time.
  const int turns = kMode == kDirect ? span * tube : span;
  const int rounds = kMode == kDirect ? (tube + 3) / 4 : 1;
  const FaceReader<C, M::kFaces> reader(b);
  const Feeder<C, kMode> feeder(b);
  const int offset = threadIdx.x % C::kRowGranules * C::kElements;
  for (int round = 0; round < rounds; ++round) {
    Accumulators<C, kMode> acc = {};
    const auto pass_of = [&](int turn) { return kMode == kDirect ? turn / span : 0; };
    const auto at_of = [&](int turn) {
      const int place = b.turn_from + (kMode == kDirect ? turn % span : turn);
      return static_cast<int64_t>(place) * C::kSpan + offset;
    };
    const auto request_faces = [&](int turn) {
      if (turn >= turns) return;
      reader.request(b, b.faces + turn % kStages * C::kFaceStage, pass_of(turn), at_of(turn));
    };
    const auto request_rows = [&](int turn) {
      if (turn >= turns) return;
      feeder.request(b, b.rows + turn % kStages * C::kRowStage, at_of(turn),
                     4 * round + pass_of(turn));
    };
    const auto feed = [&](int turn) {
      if (turn >= turns) return;
      feeder.store(b, b.operand + (turn & 1) * C::kOperand, b.rows + turn % kStages * C::kRowStage,
                   at_of(turn), 4 * round + pass_of(turn));
    };
    request_rows(0);
    copy_commit();
#pragma unroll 1
    for (int turn = 0; turn < kStages - 1; ++turn) {
      request_faces(turn);
      request_rows(turn + 1);
      copy_commit();
    }
    copy_wait<kStages - 1>();
    feed(0);
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
      copy_wait<kStages - 2>();
      __syncthreads();
      request_faces(turn + kStages - 1);
      request_rows(turn + kStages);
      copy_commit();
      feed(turn + 1);
      const Granule* operand = b.operand + (turn & 1) * C::kOperand;
      const Granule* faces = b.faces + turn % kStages * C::kFaceStage + warp_k * C::kFaceChunk;
      operand += warp_k * C::kOperandChunk;
      // With 128 registers overlapping tiles spill (measured: docs/kernels.md).
      constexpr bool kOverlap = C::kThreads <= 256;
      if (kOverlap && tiles == C::kTiles) {
        compute<C, kMode, kOverlap>(faces, operand, warp_n, warp_w, tiles, acc);
      } else {
        compute<C, kMode, false>(faces, operand, warp_n, warp_w, tiles, acc);
      }
    }
    copy_wait<0>();
    write_out<C, kMode>(b, acc, 4 * round);
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    pull_back_kernel(const PullBackArgs args, int split, int tiles) {
  extern __shared__ __align__(16) unsigned char memory[];
  constexpr int kWork = C::kBytes - static_cast<int>(sizeof(Tile<C::kWords>));
  auto* ring = reinterpret_cast<Granule*>(memory);
  auto& tile = *reinterpret_cast<Tile<C::kWords>*>(memory + kWork);
  // Blocks of one cluster share the tile; tiles of the same columns follow each other, so that
  // words of one group that need several tiles find the faces in the L2 cache.
  const int rank = static_cast<int>(blockIdx.x % split);
  const int64_t index = blockIdx.x / split;
  if (!find_tile(args, index % tiles, tile, reinterpret_cast<int*>(ring))) return;
  if (tile.tube <= args.tubes_done) return;
  const int64_t turns = (args.d_tgt + C::kSpan - 1) / C::kSpan;
  const Block<C> b{args,
                   tile,
                   ring,
                   ring + C::kStages * C::kFaceStage,
                   ring + C::kStages * (C::kFaceStage + C::kRowStage),
                   reinterpret_cast<float*>(memory),
                   index / tiles * C::kColumns,
                   rank,
                   split,
                   static_cast<int>(rank * turns / split),
                   static_cast<int>((rank + 1) * turns / split)};
  // Words with more target tokens than the ring holds are folded by the definition's loop.
  bool folds = false;
  for (int i = threadIdx.x; i < tile.count; i += C::kThreads) {
    folds |= tile.word[i].q > (tile.tube == 1 ? kReadAhead : tile.tube);
  }
  folds = __syncthreads_or(folds);
  switch (folds ? kDirect : tile.tube) {
    case 1:
      return run<C, 1>(b);
    case 2:
      return run<C, 2>(b);
    case 3:
      return run<C, 3>(b);
    case 4:
      return run<C, 4>(b);
    default:
      return run<C, kDirect>(b);
  }
}

}  // namespace fuse_index
