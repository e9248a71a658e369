// The general pull-back kernel: its shape, its ring in shared memory, and how faces get there.
#pragma once

#include "mma.cuh"
#include "spectrum.cuh"
#include "tile.cuh"

namespace fuse_index {

constexpr int kChunkGranules = 4;  // of one row
constexpr int kDirect = 0;         // mode of tubes longer than four: the definition
constexpr int kReadAhead = 4;      // target rows of a word that pass through the ring

template <int kMode>
struct Mode {
  static constexpr int kFaces = kMode == kDirect ? 1 : kMode;       // faces in a stage
  static constexpr int kComponents = kMode == kDirect ? 4 : kMode;  // accumulators, B operands
  static constexpr int kRead = kMode == 1 ? kReadAhead : kComponents;
};

// Warps lie along the columns (16 each), the words (8 * kTiles each) and the chunks of a stage.
template <class T, int kWarpsN_, int kWarpsW_, int kWarpsK_, int kTiles_, int kStages_,
          bool kAligned_>
struct Config {
  using Type = T;
  static constexpr int kWarpsN = kWarpsN_, kWarpsW = kWarpsW_, kWarpsK = kWarpsK_;
  static constexpr int kTiles = kTiles_, kStages = kStages_;
  static constexpr bool kAligned = kAligned_;
  static constexpr int kColumns = 16 * kWarpsN;
  static constexpr int kWords = 8 * kTiles * kWarpsW;
  static constexpr int kThreads = 32 * kWarpsN * kWarpsW * kWarpsK;
  static constexpr int kParts = Units<T>::kParts;
  static constexpr int kElements = 4 * Units<T>::kPerUnit;       // in a granule
  static constexpr int kRowGranules = kChunkGranules * kWarpsK;  // of a row in a stage
  static constexpr int kSpan = kRowGranules * kElements;         // target columns of a stage
  // Granules; the four at the end of a chunk spread the chunks of a stage over the banks.
  static constexpr int kFaceChunk = kColumns * kChunkGranules + kChunkGranules;
  static constexpr int kFaceStage = 4 * kWarpsK * kFaceChunk;
  static constexpr int kFeeders = kWords * kRowGranules;  // threads that feed the operand
  static constexpr int kRowStage = kReadAhead * kFeeders;
  static constexpr int kOperandChunk = 4 * kParts * kWords * kChunkGranules + kChunkGranules;
  static constexpr int kOperand = kWarpsK * kOperandChunk;
  static constexpr int kStride = kColumns + 4;  // of the epilogue
  static constexpr int kMain = (kStages * (kFaceStage + kRowStage) + 2 * kOperand) * 16;
  static constexpr int kEpilogue = kWarpsK * 4 * kWords * kStride * 4;
  static constexpr int kBytes = (kMain > kEpilogue ? kMain : kEpilogue) + sizeof(Tile<kWords>);
  static_assert(kFeeders <= kThreads, "one granule of a word for each thread");
};

// What one block knows about its work.
template <class C>
struct Block {
  const PullBackArgs& args;
  Tile<C::kWords>& tile;
  Granule* faces;    // kStages stages
  Granule* rows;     // kStages stages
  Granule* operand;  // two buffers
  float* stage;      // epilogue, aliases the rest
  int64_t column;    // first column of the source width
  int rank;          // part of the sum over the target width
  int split;
  int turn_from;
  int turn_to;
};

// Copies one granule of a row of `width` elements from element `at`; zeros past the end.
template <class C>
__device__ __forceinline__ void request_granule(Granule* to, const typename C::Type* row,
                                                int64_t at, int64_t width, bool inside) {
  using U = Units<typename C::Type>;
  inside = inside && at < width;
  if constexpr (C::kAligned) {
    copy_async(to, row + at, inside ? 16 : 0);  // an address of zero bytes is never read
  } else {
    Granule out{};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t from = at + i * U::kPerUnit;
      if (inside && from < width) out.u[i] = U::load(row + from, static_cast<int>(width - from));
    }
    *to = out;
  }
}

// This thread's share of every stage of the faces.
// Layout of a stage: [face][chunk][16-row tile][half][row % 8][granule].
template <class C, int kFaces>
struct FaceReader {
  using T = typename C::Type;
  static constexpr int kStep = C::kThreads / C::kRowGranules;  // rows a round
  static constexpr int kRounds = C::kColumns / kStep;
  static_assert(kRounds >= 1 && C::kColumns % kStep == 0, "rounds cover the columns");

  const T* from;
  int64_t face_stride;
  int64_t row_stride;
  int64_t rows_left;
  int slot;

  __device__ __forceinline__ explicit FaceReader(const Block<C>& b) {
    const int granule = threadIdx.x % C::kRowGranules, row = threadIdx.x / C::kRowGranules;
    row_stride = kStep * b.args.d_tgt;
    face_stride = b.args.d_src * b.args.d_tgt;
    rows_left = b.args.d_src - b.column - row;
    from = static_cast<const T*>(b.args.faces) + b.tile.first_face * face_stride +
           (b.column + row) * b.args.d_tgt;
    slot =
        granule / kChunkGranules * C::kFaceChunk + row * kChunkGranules + granule % kChunkGranules;
  }

  __device__ __forceinline__ void request(const Block<C>& b, Granule* stage, int64_t face,
                                          int64_t at) const {
    const T* source = from + face * face_stride;
#pragma unroll
    for (int j = 0; j < kFaces; ++j) {
#pragma unroll
      for (int i = 0; i < kRounds; ++i) {
        const bool inside = i * kStep < rows_left;
        const T* row = source + j * face_stride + i * row_stride;
        request_granule<C>(
            stage + j * C::kWarpsK * C::kFaceChunk + slot + i * kStep * kChunkGranules, row, at,
            b.args.d_tgt, inside);
      }
    }
  }
};

}  // namespace fuse_index
