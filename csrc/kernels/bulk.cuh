// fuse_index::pull_back for many words of a group, on Hopper (sm_90a).
//
// A block owns 64 columns of the source width and 2 * kWords words of one group, kWords for each of
// two warpgroups. Two threads of a third warpgroup let the copy engine stream the faces and the
// rows that another launch (rows_kernel.cuh) transformed through a ring each. The two warpgroups
// read the faces, transform them in registers (spectrum.cuh) and feed them to the matrix unit from
// there; its other operand, the rows, comes from shared memory. While the products of a turn (64
// bytes of target columns) run, the faces of the next are transformed.
//
// The sum over the target width may be cut into parts; part i adds the sums of part i + 1 to its
// own, so the order of the sum is fixed. Blocks of later parts have lower numbers: a block waits
// only for blocks that started before it.
//
// float32: see the head of pull_back.cuh; every turn is summed apart.
#pragma once

#include "bulk_store.cuh"

namespace fuse_index {

// Adds the sums of the next part and passes on, or returns true in the first part.
template <class C, int K>
__device__ __forceinline__ bool combine_parts(const BulkBlock<C>& b, float (&sums)[K][C::kSums]) {
  const int group = threadIdx.x / 128;
  const int64_t blocks = static_cast<int64_t>(gridDim.x) * gridDim.y;  // of a part
  const int64_t place = static_cast<int64_t>(gridDim.x) * blockIdx.y + blockIdx.x;
  constexpr int64_t kBlockSums = static_cast<int64_t>(kMostTube) * C::kSums * 128 * C::kConsumers;
  const auto sums_of = [&](int part) {  // of part 1, 2, ...
    return reinterpret_cast<float4*>(b.plan.partial + ((part - 1) * blocks + place) * kBlockSums) +
           threadIdx.x;
  };
  const auto flag_of = [&](int part) {
    return b.plan.flags + ((part - 1) * blocks + place) * C::kConsumers + group;
  };
  constexpr int kThreads = 128 * C::kConsumers;
  if (b.part() + 1 < b.plan.parts) {
    const int* flag = flag_of(b.part() + 1);
    int ready = 0;
    while (!ready) {
      asm volatile("ld.acquire.gpu.global.s32 %0, [%1];" : "=r"(ready) : "l"(flag) : "memory");
    }
    const float4* from = sums_of(b.part() + 1);
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
  if (b.part() == 0) return true;
  float4* to = sums_of(b.part());
#pragma unroll
  for (int i = 0; i < K; ++i) {
#pragma unroll
    for (int e = 0; e < C::kSums; e += 4) {
      __stcg(to + (i * C::kSums + e) / 4 * kThreads,
             make_float4(sums[i][e], sums[i][e + 1], sums[i][e + 2], sums[i][e + 3]));
    }
  }
  hopper::named_sync(1 + group, 128);
  if (threadIdx.x % 128 == 0) {  // what the barrier made known to this thread is released with it
    asm volatile("st.release.gpu.global.s32 [%0], %1;" ::"l"(flag_of(b.part())), "r"(1) : "memory");
  }
  return false;
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
    if (b.part() == 0) wait_for_consumers<C>();
    return;
  }
  float sums[K][C::kSums] = {};
  add_turns<C, K>(stages, turns, sums);
  if (combine_parts<C, K>(b, sums)) store_sums<C, K>(b, sums);
}

// All threads: brings what the launch before this one found out about the tile.
template <class C>
__device__ __forceinline__ void read_tile(const BulkPlan& plan, void* tile) {
  using Found = FoundTile<2 * C::kWords>;
  constexpr int kGranules = static_cast<int>(sizeof(Found) / 16);
  static_assert(kGranules <= C::kThreads, "one for a thread");
  if (threadIdx.x < kGranules) {
    const auto* from = reinterpret_cast<const uint4*>(plan.found + blockIdx.x * sizeof(Found));
    static_cast<uint4*>(tile)[threadIdx.x] = __ldcg(from + threadIdx.x);
  }
}

template <class C>
__global__ void __launch_bounds__(C::kThreads, 1)
    bulk_kernel(const __grid_constant__ CUtensorMap map, const PullBackArgs args,
                const __grid_constant__ BulkPlan plan) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  extern __shared__ __align__(1024) unsigned char memory[];
  auto* barriers = reinterpret_cast<uint64_t*>(memory + C::kRing);
  auto& tile = *reinterpret_cast<FoundTile<2 * C::kWords>*>(memory + C::kRing + C::kBarriers);
  read_tile<C>(plan, &tile);
  if (threadIdx.x == 0) {
    hopper::prefetch_map(&map);
    for (int i = 0; i < C::kFaceStages; ++i) {
      hopper::barrier_init(barriers + i, 1);
      hopper::barrier_init(barriers + C::kFaceStages + i, 4 * C::kConsumers);
    }
    for (int i = 0; i < C::kRowStages; ++i) {
      hopper::barrier_init(barriers + 2 * C::kFaceStages + i, 1);
      hopper::barrier_init(barriers + 2 * C::kFaceStages + C::kRowStages + i, 4 * C::kConsumers);
    }
  }
  hopper::fence_async();
  __syncthreads();
  if (tile.tube == 0) return hopper::wait_for_earlier();
  const int part = BulkBlock<C>::part();
  const BulkBlock<C> b{args,
                       plan,
                       tile,
                       memory,
                       barriers,
                       barriers + C::kFaceStages,
                       memory + C::kFaceStages * C::kFaceStage,
                       barriers + 2 * C::kFaceStages,
                       barriers + 2 * C::kFaceStages + C::kRowStages,
                       plan.bounds[part],
                       plan.bounds[part + 1]};
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
