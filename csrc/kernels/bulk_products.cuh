// The bulk kernel: how a warpgroup transforms faces and multiplies them with rows.
#pragma once

#include "bulk_block.cuh"
#include "chains.cuh"

namespace fuse_index {

// Components of 16 columns a warp: [component][upper, lower 8 rows].
template <int K>
using Spectrum = Granule[K][2];

// Registers that products read stay as they are until here.
template <int K>
__device__ __forceinline__ void hold(const Spectrum<K>& x) {
#pragma unroll
  for (int i = 0; i < K; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int u = 0; u < 4; ++u) asm volatile("" ::"r"(x[i][h].u[u]) : "memory");
    }
  }
}

// Which of its 8 rows a lane holds: with the copy engine's swizzle (16-byte piece i of row r lies
// at i ^ (r & 7)) the lanes that read together meet no bank twice.
__device__ __forceinline__ int row_of_lane(int lane) { return (lane >> 2 & 1) << 2 | lane >> 3; }

template <class C, int K>
__device__ __forceinline__ void load_faces(const unsigned char* faces, int half, Spectrum<K>& x) {
  const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x & 31, row = row_of_lane(lane);
  const auto* mine = reinterpret_cast<const Granule*>(faces) + (warp * 16 + row) * 8 +
                     ((half * 4 + lane % 4) ^ row);
#pragma unroll
  for (int j = 0; j < K; ++j) {
#pragma unroll
    for (int h = 0; h < 2; ++h) x[j][h] = mine[j * C::kFaceBytes / 16 + h * 64];
  }
}

template <class C, int K>
__device__ __forceinline__ void transform_faces(Spectrum<K>& x) {
#pragma unroll
  for (int h = 0; h < 2; ++h) {
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      Unit v[K];
#pragma unroll
      for (int j = 0; j < K; ++j) v[j] = x[j][h].u[u];
      to_spectrum<K, Units<typename C::Type>>(v);
#pragma unroll
      for (int j = 0; j < K; ++j) x[j][h].u[u] = v[j];
    }
  }
}

// Starts the product of one chain in one step: sums += or -= x rows.
template <class C, int K, int kChain, int kStep>
__device__ __forceinline__ void start_product(const Spectrum<K>& x, uint64_t rows, int part,
                                              float (&sums)[C::kSums], int keep) {
  using T = typename C::Type;
  using P = Chains<K>;
  constexpr int kStepBytes = C::kWords * 32;
  const Granule& upper = x[P::left(kChain)][0];
  const Granule& lower = x[P::left(kChain)][1];
  hopper::multiply<T, P::negative(kChain) ? -1 : 1>(
      sums, upper.u[2 * kStep], lower.u[2 * kStep], upper.u[2 * kStep + 1], lower.u[2 * kStep + 1],
      rows + ((P::right(kChain) * C::Rows::kComponentBytes + (part * 2 + kStep) * kStepBytes) >> 4),
      keep);
}

// Starts all products of a stage of half precision.
template <class C, int K, int kChain = 0>
__device__ __forceinline__ void start_stage(const Spectrum<K>& x, uint64_t rows,
                                            float (&sums)[K][C::kSums], int keep) {
  using P = Chains<K>;
  start_product<C, K, kChain, 0>(x, rows, 0, sums[P::into(kChain)], P::first(kChain) ? keep : 1);
  start_product<C, K, kChain, 1>(x, rows, 0, sums[P::into(kChain)], 1);
  if constexpr (kChain + 1 < P::kCount) start_stage<C, K, kChain + 1>(x, rows, sums, keep);
}

// Starts the products that make up component kInto of a stage of float32, small ones first.
template <class C, int K, int kInto, int kTerm = 0, int kChain = 0>
__device__ __forceinline__ void start_component(const Spectrum<K>& high, const Spectrum<K>& low,
                                                uint64_t rows, float (&sums)[C::kSums]) {
  using P = Chains<K>;
  if constexpr (P::into(kChain) == kInto) {
    const Spectrum<K>& x = kTerm == 0 ? low : high;
    start_product<C, K, kChain, 0>(x, rows, kTerm == 1, sums, kTerm > 0 || !P::first(kChain));
    start_product<C, K, kChain, 1>(x, rows, kTerm == 1, sums, 1);
  }
  if constexpr (kChain + 1 < P::kCount) {
    start_component<C, K, kInto, kTerm, kChain + 1>(high, low, rows, sums);
  } else if constexpr (kTerm < 2) {
    start_component<C, K, kInto, kTerm + 1, 0>(high, low, rows, sums);
  }
}

template <class C, int K, int kInto = 0>
__device__ __forceinline__ void start_components(const Spectrum<K>& high, const Spectrum<K>& low,
                                                 uint64_t rows, float (&apart)[K][C::kSums]) {
  start_component<C, K, kInto>(high, low, rows, apart[kInto]);
  hopper::products_commit();
  if constexpr (kInto + 1 < K) start_components<C, K, kInto + 1>(high, low, rows, apart);
}

// Adds up what start_components started, as it gets ready.
template <class C, int K, int kInto = 0>
__device__ __forceinline__ void add_components(float (&apart)[K][C::kSums],
                                               float (&sums)[K][C::kSums]) {
  hopper::products_wait<K - 1 - kInto>();
#pragma unroll
  for (int e = 0; e < C::kSums; ++e) hopper::settle(apart[kInto][e]);
#pragma unroll
  for (int e = 0; e < C::kSums; ++e) sums[kInto][e] += apart[kInto][e];
  if constexpr (kInto + 1 < K) add_components<C, K, kInto + 1>(apart, sums);
}

// What one warpgroup waits for and gives back.
template <class C>
struct Stages {
  const BulkBlock<C>& b;
  int group;

  __device__ __forceinline__ void await_faces(int turn) const {
    const int pair = turn / 2;
    hopper::barrier_wait(b.faces_full + pair % C::kFaceStages, pair / C::kFaceStages & 1);
  }
  __device__ __forceinline__ void give_back_faces(int turn) const {
    if (turn % 2 == 1) give_back(b.faces_empty + turn / 2 % C::kFaceStages);
  }
  template <int K>
  __device__ __forceinline__ void read_faces(int turn, Spectrum<K>& x) const {
    await_faces(turn);
    load_faces<C, K>(b.faces + turn / 2 % C::kFaceStages * C::kFaceStage, turn % 2, x);
  }
  template <int K>
  __device__ __forceinline__ void finish_faces(int turn, Spectrum<K>& x) const {
    transform_faces<C, K>(x);
    hold<K>(x);
    give_back_faces(turn);
  }
  __device__ __forceinline__ uint64_t await_rows(int turn) const {
    const int stage = turn % C::kRowStages;
    hopper::barrier_wait(b.rows_full + stage, turn / C::kRowStages & 1);
    return hopper::describe(b.rows + stage * C::kRowStage + group * C::Rows::kChunkBytes,
                            C::kWords * 16);
  }
  __device__ __forceinline__ void give_back_rows(int turn) const {
    give_back(b.rows_empty + turn % C::kRowStages);
  }
  __device__ __forceinline__ void give_back(uint64_t* empty) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) hopper::barrier_arrive(empty);
  }
};

// Half precision: one turn. While its products run, the faces of the next are transformed.
template <class C, int K, bool kLast>
__device__ __forceinline__ void add_turn(const Stages<C>& stages, int turn, const Spectrum<K>& now,
                                         Spectrum<K>& next, float (&sums)[K][C::kSums]) {
  const uint64_t rows = stages.await_rows(turn);
  // Starting a product waits for the one before, so what can be asked for is asked for first.
  if constexpr (!kLast) stages.read_faces(turn + 1, next);
  hopper::products_begin();
  start_stage<C, K>(now, rows, sums, turn > 0);
  hopper::products_commit();
  if constexpr (!kLast) stages.finish_faces(turn + 1, next);
  hopper::products_wait<0>();
  hold<K>(now);
  stages.give_back_rows(turn);
}

// float32: every turn is summed apart; see the head of pull_back.cuh.
template <class C, int K, bool kLast>
__device__ __forceinline__ void add_turn_apart(const Stages<C>& stages, int turn,
                                               const Spectrum<K>& now, Spectrum<K>& next,
                                               float (&sums)[K][C::kSums]) {
  Spectrum<K> low;
#pragma unroll
  for (int i = 0; i < K; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        low[i][h].u[u] = rest_of_tf32(now[i][h].u[u]);
      }
    }
  }
  float apart[K][C::kSums];
  const uint64_t rows = stages.await_rows(turn);
  hopper::products_begin();
  start_components<C, K>(now, low, rows, apart);
  if constexpr (!kLast) {
    stages.read_faces(turn + 1, next);
    stages.finish_faces(turn + 1, next);
  }
  add_components<C, K>(apart, sums);
  stages.give_back_rows(turn);
}

template <class C, int K, bool kLast>
__device__ __forceinline__ void add_one(const Stages<C>& stages, int turn, const Spectrum<K>& now,
                                        Spectrum<K>& next, float (&sums)[K][C::kSums]) {
  if constexpr (C::kParts == 1) {
    add_turn<C, K, kLast>(stages, turn, now, next, sums);
  } else {
    add_turn_apart<C, K, kLast>(stages, turn, now, next, sums);
  }
}

template <class C, int K>
__device__ __forceinline__ void add_turns(const Stages<C>& stages, int turns,
                                          float (&sums)[K][C::kSums]) {
  Spectrum<K> even, odd;
  stages.read_faces(0, even);
  stages.finish_faces(0, even);
  int turn = 0;
#pragma unroll 1
  for (; turn + 2 < turns; turn += 2) {
    add_one<C, K, false>(stages, turn, even, odd, sums);
    add_one<C, K, false>(stages, turn + 1, odd, even, sums);
  }
  if (turn + 1 < turns) {
    add_one<C, K, false>(stages, turn, even, odd, sums);
    add_one<C, K, true>(stages, turn + 1, odd, even, sums);
  } else {
    add_one<C, K, true>(stages, turn, even, odd, sums);
  }
}

}  // namespace fuse_index
