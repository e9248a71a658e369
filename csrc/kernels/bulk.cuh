// fuse_index::pull_back for many words of a group, on Hopper (sm_90a).
//
// A block owns 64 columns of the source width and 2 * kWords words of one group, kWords for each of
// two warpgroups. Two threads of a third warpgroup let the copy engine stream the faces and the
// rows that rows.cuh transformed through a ring each. The two warpgroups read the faces, transform
// them in registers (spectrum.cuh) and feed them to the matrix unit from there; its other operand,
// the rows, comes from shared memory. While the products of a turn (64 bytes of target columns)
// run, the faces of the next are transformed.
//
// The sum over the target width may be cut into parts; part i adds the sums of part i + 1 to its
// own, so the order of the sum is fixed. Blocks of later parts have lower numbers: a block waits
// only for blocks that started before it.
//
// float32: see the head of pull_back.cuh; every turn is summed apart.
#pragma once

#include "bulk_products.cuh"

namespace fuse_index {

// Adds the sums of the next part and passes on, or returns true in the first part.
template <class C, int K>
__device__ __forceinline__ bool combine_parts(const BulkBlock<C>& b, float (&sums)[K][C::kSums]) {
  const int group = threadIdx.x / 128;
  const int64_t blocks = static_cast<int64_t>(gridDim.x) / b.plan.parts;
  constexpr int64_t kBlockSums = static_cast<int64_t>(kMostTube) * C::kSums * 128 * C::kConsumers;
  const auto sums_of = [&](int part) {  // of part 1, 2, ...
    return reinterpret_cast<float4*>(b.plan.partial +
                                     ((part - 1) * blocks + b.place) * kBlockSums) +
           threadIdx.x;
  };
  const auto flag_of = [&](int part) {
    return b.plan.flags + ((part - 1) * blocks + b.place) * C::kConsumers + group;
  };
  constexpr int kThreads = 128 * C::kConsumers;
  if (b.part + 1 < b.plan.parts) {
    const int* flag = flag_of(b.part + 1);
    int ready = 0;
    while (!ready) {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(ready) : "l"(flag) : "memory");
    }
    const float4* from = sums_of(b.part + 1);
#pragma unroll
    for (int i = 0; i < K; ++i) {
#pragma unroll
      for (int e = 0; e < C::kSums; e += 4) {
        const float4 v = __ldcg(from + (i * C::kSums + e) / 4 * kThreads);
        sums[i][e] += v.x;
        sums[i][e + 1] += v.y;
        sums[i][e + 2] += v.z;
        sums[i][e + 3] += v.w;
      }
    }
  }
  if (b.part == 0) return true;
  float4* to = sums_of(b.part);
#pragma unroll
  for (int i = 0; i < K; ++i) {
#pragma unroll
    for (int e = 0; e < C::kSums; e += 4) {
      __stcg(to + (i * C::kSums + e) / 4 * kThreads,
             make_float4(sums[i][e], sums[i][e + 1], sums[i][e + 2], sums[i][e + 3]));
    }
  }
  __threadfence();
  hopper::named_sync(1 + group, 128);
  if (threadIdx.x % 128 == 0) {
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(flag_of(b.part)), "r"(1) : "memory");
  }
  return false;
}

// Nobody reads the ring any more.
template <class C>
__device__ __forceinline__ void wait_for_consumers() {
  hopper::named_sync(1 + C::kConsumers, 128 * C::kConsumers);
}

// Transforms back and stores, through shared memory so that rows are written in one piece.
template <class C, int K>
__device__ __forceinline__ void store_sums(const BulkBlock<C>& b, float (&sums)[K][C::kSums]) {
  using T = typename C::Type;
  const int group = threadIdx.x / 128, warp = threadIdx.x / 32 % 4, lane = threadIdx.x & 31;
  wait_for_consumers<C>();
  float* stage = reinterpret_cast<float*>(b.faces) + group * kMostTube * C::kWords * C::kStride;
#pragma unroll
  for (int e = 0; e < C::kSums; ++e) {
    float y[K];
#pragma unroll
    for (int i = 0; i < K; ++i) y[i] = sums[i][e];
    from_spectrum<K>(y);
    const int slot = e / 4 * 8 + 2 * (lane % 4) + (e & 1);
    const int row = warp * 16 + row_of_lane(lane) + 8 * (e >> 1 & 1);
#pragma unroll
    for (int i = 0; i < K; ++i) stage[(i * C::kWords + slot) * C::kStride + row] = y[i];
  }
  hopper::named_sync(1 + group, 128);
  const int64_t width = b.args.d_src, column = b.column + 2 * lane;
  const bool pairs = width % 2 == 0;
  const int words = b.words(group);
  for (int item = warp; item < words * K; item += 4) {
    const int slot = item / K, i = item % K;
    const Word word = b.tile.word[group * C::kWords + slot];
    const float* from = stage + (i * C::kWords + slot) * C::kStride + 2 * lane;
    const T x = Units<T>::round(from[0]), y = Units<T>::round(from[1]);
    for (int s = i; s < word.p; s += K) {
      T* out = static_cast<T*>(b.args.out) + (word.source_row + s) * width + column;
      if (pairs && column < width) {
        struct alignas(2 * sizeof(T)) Pair {
          T x, y;
        };
        *reinterpret_cast<Pair*>(out) = {x, y};
      } else {
        if (column < width) out[0] = x;
        if (column + 1 < width) out[1] = y;
      }
    }
  }
}

template <class C, int K>
__device__ __forceinline__ void consume(const BulkBlock<C>& b) {
  const int group = threadIdx.x / 128, turns = b.turn_to - b.turn_from;
  const Stages<C> stages{b, group};
  if (b.words(group) == 0) {  // only the last tile of a group has an idle half
    for (int turn = 0; turn < turns; ++turn) {
      stages.await_faces(turn);
      stages.await_rows(turn);
      stages.give_back_rows(turn);
      stages.give_back_faces(turn);
    }
    if (b.part == 0) wait_for_consumers<C>();
    return;
  }
  float sums[K][C::kSums] = {};
  add_turns<C, K>(stages, turns, sums);
  if (combine_parts<C, K>(b, sums)) store_sums<C, K>(b, sums);
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    bulk_kernel(const __grid_constant__ CUtensorMap map, const PullBackArgs args,
                const BulkPlan plan) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char memory[];
  auto* barriers = reinterpret_cast<uint64_t*>(memory + C::kRing);
  auto& tile = *reinterpret_cast<Tile<2 * C::kWords>*>(memory + C::kRing + C::kBarriers);
  const int64_t blocks = static_cast<int64_t>(gridDim.x) / plan.parts;
  const int part = plan.parts - 1 - static_cast<int>(blockIdx.x / blocks);
  const int64_t place = blockIdx.x % blocks;
  const int index = static_cast<int>(place % plan.tiles);
  if (!find_tile(args, index, tile, reinterpret_cast<int*>(memory)) || tile.tube > kMostTube) {
    return;
  }
  const auto bound = [&](int i) {  // parts begin with a stage of faces
    const int64_t pairs = (plan.chunks + 1) / 2;
    return min(plan.chunks, static_cast<int>(i * pairs / plan.parts) * 2);
  };
  const BulkBlock<C> b{args,
                       plan,
                       tile,
                       memory,
                       barriers,
                       barriers + C::kFaceStages,
                       memory + C::kFaceStages * C::kFaceStage,
                       barriers + 2 * C::kFaceStages,
                       barriers + 2 * C::kFaceStages + C::kRowStages,
                       place / plan.tiles * C::kColumns,
                       index,
                       part,
                       place,
                       bound(part),
                       bound(part + 1)};
  if (threadIdx.x == 0) {
    for (int i = 0; i < C::kFaceStages; ++i) {
      hopper::barrier_init(b.faces_full + i, 1);
      hopper::barrier_init(b.faces_empty + i, 4 * C::kConsumers);
    }
    for (int i = 0; i < C::kRowStages; ++i) {
      hopper::barrier_init(b.rows_full + i, 1);
      hopper::barrier_init(b.rows_empty + i, 4 * C::kConsumers);
    }
  }
  hopper::fence_async();
  __syncthreads();
  // Without a register cap for each role the sums would not fit.
  if (threadIdx.x >= 128 * C::kConsumers) {
    hopper::give_registers<24>();
    if (threadIdx.x == 128 * C::kConsumers) produce_faces<C>(b, &map);
    if (threadIdx.x == 128 * C::kConsumers + 32) produce_rows<C>(b);
  } else {
    hopper::take_registers<240>();
    switch (tile.tube) {
      case 1:
        consume<C, 1>(b);
        break;
      case 2:
        consume<C, 2>(b);
        break;
      case 3:
        consume<C, 3>(b);
        break;
      default:
        consume<C, 4>(b);
    }
  }
#endif
}

}  // namespace fuse_index
