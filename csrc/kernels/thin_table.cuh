// The thin kernel: its shape, and how a block finds its words.
#pragma once

#include "mma.cuh"
#include "tile.cuh"

namespace fuse_index {

constexpr int kThinWords = 32;     // of one block, one a lane
constexpr int kThinMostTube = 48;  // longer tubes are another kernel's work

template <class T, int kWarps_, int kDepth_>
struct ThinConfig {
  using Type = T;
  static constexpr int kWarps = kWarps_;
  static constexpr int kDepth = kDepth_;  // turns that are on their way
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kParts = Units<T>::kParts;
  static constexpr int kElements = 4 * Units<T>::kPerUnit;  // in a granule
  static constexpr int kChunk = 4 * kElements;              // target columns: 64 bytes
  static constexpr int kRows = 16;                          // columns of the source width
  static constexpr int kColumns = 32;                       // of a tile
  static constexpr int kTiles = kThinWords * ((kThinMostTube + kColumns - 1) / kColumns);
  static constexpr int kTurn = (2 + kColumns / 8) * 32;  // granules of a warp
  static constexpr int kQueue = kDepth * kTurn;
  static constexpr int kStride = kRows + 1;  // of the sums, against bank conflicts
  static constexpr int kQueueBytes = kWarps * kQueue * 16;
  static constexpr int kSumBytes = kWarps * kColumns * kStride * 4;
  static constexpr int kWork = kQueueBytes > kSumBytes ? kQueueBytes : kSumBytes;
};

// Position `position` of word `word`.
struct ThinColumn {
  short word;
  short position;
};

struct ThinTile {
  int64_t first_face;
  int tube;
  int first_column;
  int columns;
  int passes;  // over the faces: target tokens past the tube need more than one
};

template <class C>
struct ThinTable {
  Word word[kThinWords];
  ThinTile tile[C::kTiles];
  ThinColumn column[kThinWords * kThinMostTube];
  int tiles;
};

// Sum over the lanes before this one.
__device__ __forceinline__ int sum_before(int x) {
  const int lane = threadIdx.x & 31;
  int sum = x;
#pragma unroll
  for (int d = 1; d < 32; d *= 2) {
    const int left = __shfl_up_sync(~0u, sum, d);
    if (lane >= d) sum += left;
  }
  return sum - x;
}

// One warp, a lane for each word: cuts the words of every group into tiles, long tubes into several
// tiles for each word. A word of a group that does not exist, or is too long, is left out.
template <class C>
__device__ __forceinline__ void find_tiles(const PullBackArgs& args, ThinTable<C>& table) {
  const int lane = threadIdx.x & 31;
  const int64_t w = static_cast<int64_t>(blockIdx.y) * kThinWords + lane;
  int64_t group = -1, first = 0, faces = 0;
  Word word{};
  if (w < args.words) {
    group = __ldg(args.word_groups + w);
    word = read_word(args, static_cast<int>(w));
    if (group >= 0 && group < args.groups) {
      first = __ldg(args.face_offsets + group);
      faces = __ldg(args.face_offsets + group + 1) - first;
    }
  }
  const bool fits = first >= 0 && faces > args.tubes_done && faces <= kThinMostTube &&
                    first + faces <= args.n_faces;
  const int tube = fits ? static_cast<int>(faces) : 1;
  const unsigned peers = __match_any_sync(~0u, fits ? static_cast<int>(group) : -1);
  const int leader = __ffs(static_cast<int>(peers)) - 1, count = __popc(peers);
  const int rank = __popc(peers & ((1u << lane) - 1u));
  const bool leads = fits && lane == leader;
  const int words = tube <= C::kColumns ? C::kColumns / tube : 1;  // of a tile
  const int parts = (tube + C::kColumns - 1) / C::kColumns;        // tiles of a word
  const int turn = rank / words;
  const int tiles = leads ? (count + words - 1) / words * parts : 0;
  const int tiles_before = sum_before(tiles);
  const int first_tile = __shfl_sync(~0u, tiles_before, leader) + turn * parts;
  const int first_column =
      __shfl_sync(~0u, sum_before(leads ? count * tube : 0), leader) + rank * tube;
  const int passes = __reduce_max_sync(peers, (word.q + tube - 1) / tube);
  if (fits) {
    table.word[lane] = word;
    for (int s = 0; s < tube; ++s) {
      table.column[first_column + s] = {static_cast<short>(lane), static_cast<short>(s)};
    }
    if (rank == turn * words) {  // the first word of a tile
      const int columns = min(words, count - rank) * tube;
      for (int part = 0; part < parts; ++part) {
        const int from = part * C::kColumns;
        table.tile[first_tile + part] = {first, tube, first_column + from,
                                         min(columns - from, C::kColumns), passes};
      }
    }
  }
  if (lane == 31) table.tiles = tiles_before + tiles;
}

}  // namespace fuse_index
