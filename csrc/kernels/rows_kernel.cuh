// The launch before the bulk kernel: finds the words of every tile and transforms their rows.
//
// The bulk kernel may start while this one runs, but each of its blocks needs to know its tile. The
// block of a tile's first chunk writes that down, and lets the other launch start only then. This
// relies on two things: that launch has programmatic stream serialization, so none of its blocks
// starts before every block here has issued griddepcontrol.launch_dependents (or ended); and a
// fence of the whole device stands between what each thread has written down and that instruction,
// so it is in the L2 cache, where the bulk kernel reads it, before the first thread issues it.
// Everything else that is written here the bulk kernel reads after griddepcontrol.wait.
#pragma once

#include "hopper.cuh"
#include "rows.cuh"

namespace fuse_index {

constexpr int kRowsThreads = 256;
constexpr int kRowsWords = kRowsThreads / 4;  // at a time, four threads each

// Writes down a tile, or that the bulk kernel has nothing to do there.
template <int kWords>
__device__ __forceinline__ void record_tile(const Tile<kWords>& tile, bool exists,
                                            FoundTile<kWords>& found) {
  const int slot = threadIdx.x;
  if (exists && slot < tile.count) {
    found.word[slot] = {tile.word[slot].source_row, tile.word[slot].p};
  }
  if (slot == 0) {
    found.first_face = exists ? tile.first_face : 0;
    found.tube = exists ? tile.tube : 0;
    found.count = exists ? tile.count : 0;
  }
}

// One chunk of a tile.
template <class T, int kWords, int K>
__device__ __forceinline__ void transform_chunk(const PullBackArgs& args, const BulkPlan& plan,
                                                const Tile<2 * kWords>& tile) {
  using L = RowsLayout<T, kWords>;
  const int piece = threadIdx.x & 3, chunk = blockIdx.x;
  const int64_t column = int64_t{chunk} * L::kSpan + piece * (L::kSpan / 4);
  for (int base = 0; base < tile.count; base += kRowsWords) {
    const int slot = base + threadIdx.x / 4;
    RowsSource<T> source{nullptr, 0, 0};
    if (slot < tile.count && column < args.d_tgt) {
      const Word& word = tile.word[slot];
      source = {static_cast<const T*>(args.target_grad) + word.target_row * args.d_tgt + column,
                args.d_tgt, word.q};
    }
    uint4 first[K];  // all loads but those of surplus rows are in flight together
#pragma unroll
    for (int r = 0; r < K; ++r) first[r] = source.load(r);
    if (slot >= tile.count) return;
    transform_rows<T, kWords, K>(source, first,
                                 plan.rows +
                                     L::offset(blockIdx.y, slot / kWords, plan.chunks, chunk) +
                                     slot % kWords * 16 + piece * sizeof(Unit));
  }
}

// Grid: (chunks, tiles).
template <class T, int kWords>
__global__ void __launch_bounds__(kRowsThreads)
    transform_rows_kernel(const PullBackArgs args, const BulkPlan plan) {
  __shared__ Tile<2 * kWords> tile;
  __shared__ int counts[kMaxGroups];
  if (blockIdx.x > 0) hopper::let_dependents_start();
  const int64_t block = blockIdx.x + static_cast<int64_t>(gridDim.x) * blockIdx.y;
  for (int64_t i = block * kRowsThreads + threadIdx.x; i < plan.flag_count;
       i += static_cast<int64_t>(gridDim.x) * gridDim.y * kRowsThreads) {
    plan.flags[i] = 0;
  }
  const bool exists = find_tile(args, blockIdx.y, tile, counts) && tile.tube <= kMostTube;
  if (blockIdx.x == 0) {
    auto* found = reinterpret_cast<FoundTile<2 * kWords>*>(plan.found);
    record_tile(tile, exists, found[blockIdx.y]);
    __threadfence();
    __syncthreads();
    hopper::let_dependents_start();
  }
  if (!exists) return;
  switch (tile.tube) {
    case 1:
      transform_chunk<T, kWords, 1>(args, plan, tile);
      break;
    case 2:
      transform_chunk<T, kWords, 2>(args, plan, tile);
      break;
    case 3:
      transform_chunk<T, kWords, 3>(args, plan, tile);
      break;
    default:
      transform_chunk<T, kWords, 4>(args, plan, tile);
  }
}

}  // namespace fuse_index
