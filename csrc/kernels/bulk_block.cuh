// The bulk kernel: its shape, its rings in shared memory, and how data gets there.
#pragma once

#include "hopper.cuh"
#include "rows.cuh"

namespace fuse_index {

template <class T, int kWords_, int kFaceStages_, int kRowStages_>
struct BulkConfig {
  using Type = T;
  using Rows = RowsLayout<T, kWords_>;
  static constexpr int kWords = kWords_;            // of one warpgroup
  static constexpr int kFaceStages = kFaceStages_;  // of two chunks
  static constexpr int kRowStages = kRowStages_;    // of one chunk
  static constexpr int kColumns = 64;
  static constexpr int kConsumers = 2;  // warpgroups
  static constexpr int kThreads = 128 * (kConsumers + 1);
  static constexpr int kParts = Units<T>::kParts;
  static constexpr int kSums = kWords / 2;  // of one component in a thread
  static constexpr int kFaceBytes = kColumns * 128;
  static constexpr int kFaceStage = kMostTube * kFaceBytes;
  static constexpr int kRowStage = kConsumers * Rows::kChunkBytes;
  // Of the epilogue: a row, padded so that eight of them in a column meet no bank twice, and all of
  // one warpgroup.
  static constexpr int kPitch = kColumns + 16 / static_cast<int>(sizeof(T));
  static constexpr int kStage = kMostTube * kWords * kPitch * static_cast<int>(sizeof(T));
  static constexpr int kRing = kFaceStages * kFaceStage + kRowStages * kRowStage;
  static constexpr int kBarriers = 2 * (kFaceStages + kRowStages) * 8;
  static constexpr int kBytes = kRing + kBarriers + static_cast<int>(sizeof(FoundTile<2 * kWords>));
  static_assert(kConsumers * kStage <= kRing, "the epilogue reuses the ring");
};

// What one block knows about its work.
template <class C>
struct BulkBlock {
  const PullBackArgs& args;
  const BulkPlan& plan;
  const FoundTile<2 * C::kWords>& tile;
  unsigned char* faces;  // a ring of stages, and their barriers
  uint64_t* faces_full;
  uint64_t* faces_empty;
  unsigned char* rows;  // likewise
  uint64_t* rows_full;
  uint64_t* rows_empty;
  int turn_from;
  int turn_to;

  // Grid: (tiles, columns, parts); the last part has the lowest numbers.
  static __device__ __forceinline__ int tile_index() { return static_cast<int>(blockIdx.x); }
  static __device__ __forceinline__ int column() {
    return static_cast<int>(blockIdx.y) * C::kColumns;
  }
  static __device__ __forceinline__ int part() {
    return static_cast<int>(gridDim.z - 1 - blockIdx.z);
  }
  __device__ __forceinline__ int words(int group) const {
    return min(C::kWords, max(0, tile.count - group * C::kWords));
  }
};

// One thread requests the faces; a stage of them serves two turns.
template <class C>
__device__ __forceinline__ void produce_faces(const BulkBlock<C>& b, const CUtensorMap* map) {
  const int pairs = (b.turn_to - b.turn_from + 1) / 2;
  for (int pair = 0; pair < pairs; ++pair) {
    const int stage = pair % C::kFaceStages;
    unsigned char* to = b.faces + stage * C::kFaceStage;
    if (pair >= C::kFaceStages) {
      hopper::barrier_wait(b.faces_empty + stage, (pair / C::kFaceStages - 1) & 1);
    }
    hopper::barrier_expect(b.faces_full + stage, b.tile.tube * C::kFaceBytes);
    for (int j = 0; j < b.tile.tube; ++j) {
      hopper::copy_box(to + j * C::kFaceBytes, map, b.faces_full + stage,
                       (b.turn_from + 2 * pair) * C::Rows::kSpan, b.column(),
                       static_cast<int>(b.tile.first_face) + j);
    }
  }
}

// Another requests the rows.
template <class C>
__device__ __forceinline__ void produce_rows(const BulkBlock<C>& b) {
  using L = typename C::Rows;
  const int turns = b.turn_to - b.turn_from, halves = b.words(1) > 0 ? 2 : 1;
  const int bytes = b.tile.tube * L::kComponentBytes;
  hopper::wait_for_earlier();  // they are there
  for (int turn = 0; turn < turns; ++turn) {
    const int stage = turn % C::kRowStages;
    if (turn >= C::kRowStages) {
      hopper::barrier_wait(b.rows_empty + stage, (turn / C::kRowStages - 1) & 1);
    }
    hopper::barrier_expect(b.rows_full + stage, halves * bytes);
    for (int half = 0; half < halves; ++half) {
      hopper::copy_bytes(
          b.rows + stage * C::kRowStage + half * L::kChunkBytes,
          b.plan.rows + L::offset(b.tile_index(), half, b.plan.chunks, b.turn_from + turn), bytes,
          b.rows_full + stage);
    }
  }
}

}  // namespace fuse_index
