// fuse_index::pull_back on matrix units: one launch for a ragged batch of words of mixed groups.
//
//   out[s] = sum over t < q of g[t] @ F[(t - s) mod k]^T,   s < p
//
// A block owns 16 * kWarpsN columns of the source width, up to kWords words of one group and,
// in a cluster of `split` blocks, one part of the sum over the target width. It streams the faces
// once through a ring in shared memory and works in the transform domain (spectrum.cuh): 1, 2, 5
// and 6 matrix products for k = 1..4 instead of k * k. Longer tubes take the definition, four
// positions at a time. float32 is split in two TF32 numbers (three products); every 16 target
// columns are summed on the matrix unit, which truncates, and added up outside of it, which rounds.
//
// Fragments: a granule holds 16 bytes of a row, four lanes hold 64 bytes (a "chunk": 16 floats or
// 32 halves, two steps of the matrix instruction). The order of the sum inside a chunk is free, so
// lane c of four reads granule c whole: no shuffles, no bank conflicts, on both operands alike.
#pragma once

#include <cooperative_groups.h>

#include "mma.cuh"
#include "spectrum.cuh"
#include "tile.cuh"

namespace fuse_index {

namespace cg = cooperative_groups;

constexpr int kChunkGranules = 4;  // of one row
constexpr int kDirect = 0;         // mode of tubes longer than four: the definition

template <int kMode>
struct Mode {
  static constexpr int kFaces = kMode == kDirect ? 1 : kMode;       // faces in a stage
  static constexpr int kComponents = kMode == kDirect ? 4 : kMode;  // accumulators, B operands
  static constexpr int kRead = kMode == 1 ? 4 : kComponents;        // target rows read ahead
};

template <class T, int kWarpsN_, int kWarpsW_, int kTiles_, int kStages_, bool kAligned_>
struct Config {
  using Type = T;
  static constexpr int kWarpsN = kWarpsN_, kWarpsW = kWarpsW_, kStages = kStages_;
  static constexpr int kTiles = kTiles_;  // tiles of 8 words a warp holds
  static constexpr bool kAligned = kAligned_;
  static constexpr int kColumns = 16 * kWarpsN;
  static constexpr int kWords = 8 * kTiles * kWarpsW;
  static constexpr int kThreads = 32 * kWarpsN * kWarpsW;
  static constexpr int kParts = Units<T>::kParts;
  static constexpr int kElements = 4 * Units<T>::kPerUnit;   // in a granule
  static constexpr int kChunk = kChunkGranules * kElements;  // target columns of a chunk
  static constexpr int kFaceGranules = kColumns * kChunkGranules;
  static constexpr int kRing = kStages * 4 * kFaceGranules;              // granules
  static constexpr int kOperand = 4 * kParts * kWords * kChunkGranules;  // granules
  static constexpr int kStride = kColumns + 4;                           // of the epilogue
  static constexpr int kMain = (kRing + 2 * kOperand) * 16;
  static constexpr int kEpilogue = 4 * kWords * kStride * 4;
  static constexpr int kBytes = (kMain > kEpilogue ? kMain : kEpilogue) + sizeof(Tile<kWords>);
};

// What one block knows about its work.
template <class C>
struct Block {
  const PullBackArgs& args;
  Tile<C::kWords>& tile;
  Granule* ring;
  Granule* operand;  // two buffers
  float* stage;      // epilogue, aliases the ring
  int64_t column;    // first column of the source width
  int rank;          // part of the sum over the target width
  int split;
  int chunk_from;
  int chunk_to;
};

// One granule of a row of `width` elements from element `at`; zeros past the end.
template <class C>
__device__ __forceinline__ Granule read_granule(const typename C::Type* row, int64_t at,
                                                int64_t width) {
  using U = Units<typename C::Type>;
  Granule out{};
  if constexpr (C::kAligned) {
    if (at < width) {
      const uint4 v = __ldg(reinterpret_cast<const uint4*>(row + at));
      out = {v.x, v.y, v.z, v.w};
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t from = at + i * U::kPerUnit;
      if (from < width) out.u[i] = U::load(row + from, static_cast<int>(width - from));
    }
  }
  return out;
}

// Requests chunk `chunk` of the faces `face` .. `face + kFaces - 1` into a stage of the ring.
// Layout of a stage: [face][16-row tile][half][row % 8][granule].
template <class C, int kFaces>
__device__ __forceinline__ void request_faces(const Block<C>& b, Granule* to, int64_t face,
                                              int chunk) {
  using T = typename C::Type;
  const T* faces = static_cast<const T*>(b.args.faces);
  const int64_t width = b.args.d_tgt, rows = b.args.d_src;
  const int c = threadIdx.x % kChunkGranules;
  const int64_t at = static_cast<int64_t>(chunk) * C::kChunk + c * C::kElements;
  constexpr int kStep = C::kThreads / kChunkGranules;  // rows per turn
#pragma unroll
  for (int j = 0; j < kFaces; ++j) {
#pragma unroll
    for (int i = 0; i < C::kColumns / kStep; ++i) {
      const int r = i * kStep + threadIdx.x / kChunkGranules;
      const int64_t row = b.column + r;
      const bool inside = row < rows && at < width;
      const T* from = faces + ((face + j) * rows + (row < rows ? row : 0)) * width;
      Granule* slot = to + j * C::kFaceGranules + r * kChunkGranules + c;
      if constexpr (C::kAligned) {
        copy_async(slot, from + (inside ? at : 0), inside ? 16 : 0);
      } else {
        *slot = inside ? read_granule<C>(from, at, width) : Granule{};
      }
    }
  }
}

// Target rows of one word, one granule wide, on their way from memory to the operand buffer.
template <class C, int kMode>
struct Gradient {
  using T = typename C::Type;
  using U = Units<T>;
  using M = Mode<kMode>;
  Granule raw[M::kRead];

  // Position of the i-th row read: the tube position, or for long tubes that of accumulator i.
  static __device__ __forceinline__ int position(int i, int shift, int tube) {
    return kMode == kDirect ? (i + shift) % tube : i;
  }

  __device__ __forceinline__ void read(const Block<C>& b, const Word& word, int64_t at, int shift) {
    const T* rows = static_cast<const T*>(b.args.target_grad) + word.target_row * b.args.d_tgt;
#pragma unroll
    for (int i = 0; i < M::kRead; ++i) {
      const int t = position(i, shift, b.tile.tube);
      raw[i] = t < word.q ? read_granule<C>(rows + t * b.args.d_tgt, at, b.args.d_tgt) : Granule{};
    }
  }

  // Adds the rows past the ones read ahead (words with more target tokens than the tube is long).
  __device__ __forceinline__ void add_rest(const Block<C>& b, const Word& word, int64_t at,
                                           int shift, int unit, float (&x)[M::kRead][U::kPerUnit]) {
    const int64_t width = b.args.d_tgt;
    const T* rows = static_cast<const T*>(b.args.target_grad) + word.target_row * width;
    const int64_t from = at + unit * U::kPerUnit;
    if (from >= width) return;
    const int tube = kMode == 1 ? M::kRead : b.tile.tube;
#pragma unroll
    for (int i = 0; i < M::kRead; ++i) {
      for (int t = position(i, shift, tube) + tube; t < word.q; t += tube) {
        float v[U::kPerUnit];
        U::unpack(U::load(rows + t * width + from, static_cast<int>(width - from)), v);
#pragma unroll
        for (int e = 0; e < U::kPerUnit; ++e) x[i][e] += v[e];
      }
    }
  }

  // Writes the components of slot `slot`: [component][part][tile of 8][slot % 8][granule].
  __device__ __forceinline__ void store(const Block<C>& b, Granule* to, const Word& word, int slot,
                                        int64_t at, int shift) {
    constexpr int kParts = C::kParts, kPer = U::kPerUnit, kN = M::kComponents;
    Granule out[kN][kParts];
    const bool more = word.q > (kMode == 1 ? M::kRead : b.tile.tube);
#pragma unroll
    for (int unit = 0; unit < 4; ++unit) {
      float x[M::kRead][kPer];
#pragma unroll
      for (int i = 0; i < M::kRead; ++i) U::unpack(raw[i].u[unit], x[i]);
      if (more) add_rest(b, word, at, shift, unit, x);
      float y[kN][kPer];
#pragma unroll
      for (int e = 0; e < kPer; ++e) {
        float v[kN];
        if constexpr (kMode == 1) {
          v[0] = (x[0][e] + x[1][e]) + (x[2][e] + x[3][e]);
        } else {
#pragma unroll
          for (int i = 0; i < kN; ++i) v[i] = x[i][e];
          if constexpr (kMode != kDirect) to_spectrum<kN, FloatMath>(v);
        }
#pragma unroll
        for (int i = 0; i < kN; ++i) y[i][e] = v[i];
      }
#pragma unroll
      for (int i = 0; i < kN; ++i) {
        const Unit whole = U::pack(y[i]);
        if constexpr (kParts == 2) {
          split_tf32(whole, out[i][0].u[unit], out[i][kParts - 1].u[unit]);
        } else {
          out[i][0].u[unit] = whole;
        }
      }
    }
    const int c = threadIdx.x % kChunkGranules;
#pragma unroll
    for (int i = 0; i < kN; ++i) {
#pragma unroll
      for (int h = 0; h < kParts; ++h) {
        to[(i * kParts + h) * C::kWords * kChunkGranules + slot * kChunkGranules + c] = out[i][h];
      }
    }
  }
};

// Accumulators of one warp: 16 source columns by 8 * kTiles words.
template <class C, int kMode>
using Accumulators = float[Mode<kMode>::kComponents][C::kTiles][4];

// A fragment of one component for both steps of a chunk; two parts for float32.
template <class C>
struct Fragment {
  Unit part[C::kParts][2][4];

  __device__ __forceinline__ void set(const Granule& upper, const Granule& lower) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      const Unit a[4] = {upper.u[2 * step], lower.u[2 * step], upper.u[2 * step + 1],
                         lower.u[2 * step + 1]};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (C::kParts == 2) {
          split_tf32(a[i], part[0][step][i], part[C::kParts - 1][step][i]);
        } else {
          part[0][step][i] = a[i];
        }
      }
    }
  }

  __device__ __forceinline__ void negate() {
#pragma unroll
    for (int h = 0; h < C::kParts; ++h) {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          part[h][step][i] = Units<typename C::Type>::neg(part[h][step][i]);
        }
      }
    }
  }
};

// Operand of one component, one tile of 8 words, one chunk.
template <class C>
struct Column {
  Granule part[C::kParts];

  __device__ __forceinline__ void load(const Granule* from, int component, int tile) {
#pragma unroll
    for (int h = 0; h < C::kParts; ++h) {
      part[h] = from[(component * C::kParts + h) * C::kWords * kChunkGranules + tile * 32 +
                     (threadIdx.x & 31)];
    }
  }
};

// d += a * b over one chunk; float32 takes the three leading products, small ones first.
template <class C>
__device__ __forceinline__ void multiply(float (&d)[4], const Fragment<C>& a, const Column<C>& b) {
  using T = typename C::Type;
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    const int u = 2 * step;
    if constexpr (C::kParts == 2) {
      mma<T>(d, a.part[1][step], b.part[0].u[u], b.part[0].u[u + 1]);
      mma<T>(d, a.part[0][step], b.part[1].u[u], b.part[1].u[u + 1]);
    }
    mma<T>(d, a.part[0][step], b.part[0].u[u], b.part[0].u[u + 1]);
  }
}

// All products of one chunk.
template <class C, int kMode>
__device__ __forceinline__ void compute(const Granule* faces, const Granule* operand, int warp_n,
                                        int warp_w, int tiles, Accumulators<C, kMode>& acc) {
  using T = typename C::Type;
  using M = Mode<kMode>;
  constexpr int kN = M::kComponents;
  Fragment<C> a[M::kFaces];
  Fragment<C> minus;  // - Im F
  {
    Granule half[2][M::kFaces];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int j = 0; j < M::kFaces; ++j) {
        half[h][j] = faces[j * C::kFaceGranules + (warp_n * 2 + h) * 32 + (threadIdx.x & 31)];
      }
      if constexpr (kMode > 1) {
#pragma unroll
        for (int unit = 0; unit < 4; ++unit) {
          Unit x[M::kFaces];
#pragma unroll
          for (int j = 0; j < M::kFaces; ++j) x[j] = half[h][j].u[unit];
          to_spectrum<M::kFaces, Units<T>>(x);
#pragma unroll
          for (int j = 0; j < M::kFaces; ++j) half[h][j].u[unit] = x[j];
        }
      }
    }
#pragma unroll
    for (int j = 0; j < M::kFaces; ++j) a[j].set(half[0][j], half[1][j]);
  }
  if constexpr (kMode > 2) {
    minus = a[kN - 1];
    minus.negate();
  }
#pragma unroll
  for (int tile = 0; tile < C::kTiles; ++tile) {
    if (tile >= tiles) break;
    Column<C> b[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) b[i].load(operand, i, warp_w * C::kTiles + tile);
    // float32 sums a chunk apart, see the head of the file; half precision adds in place.
    float apart[kN][4];
#pragma unroll
    for (int i = 0; i < kN; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) apart[i][e] = C::kParts == 2 ? 0.0f : acc[i][tile][e];
    }
    if constexpr (kMode == kDirect) {
#pragma unroll
      for (int i = 0; i < kN; ++i) multiply<C>(apart[i], a[0], b[i]);
    } else {
      constexpr int kReal = kMode <= 2 ? kMode : kMode - 2;
      if constexpr (kMode > 2) {
        multiply<C>(apart[kN - 2], a[kN - 1], b[kN - 1]);  // Re: F_re g_re + F_im g_im
        multiply<C>(apart[kN - 1], minus, b[kN - 2]);      // Im: F_re g_im - F_im g_re
      }
#pragma unroll
      for (int i = 0; i < kReal; ++i) multiply<C>(apart[i], a[i], b[i]);
      if constexpr (kMode > 2) {
        multiply<C>(apart[kN - 2], a[kN - 2], b[kN - 2]);
        multiply<C>(apart[kN - 1], a[kN - 2], b[kN - 1]);
      }
    }
#pragma unroll
    for (int i = 0; i < kN; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        acc[i][tile][e] = C::kParts == 2 ? acc[i][tile][e] + apart[i][e] : apart[i][e];
      }
    }
  }
}

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
  const int warp_n = warp % C::kWarpsN, warp_w = warp / C::kWarpsN;
  __syncthreads();  // the ring is free
#pragma unroll
  for (int i = 0; i < kN; ++i) {
#pragma unroll
    for (int tile = 0; tile < C::kTiles; ++tile) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int slot = (warp_w * C::kTiles + tile) * 8 + 2 * (lane % 4) + (e & 1);
        const int row = warp_n * 16 + lane / 4 + 8 * (e >> 1);
        b.stage[(i * C::kWords + slot) * C::kStride + row] = acc[i][tile][e];
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
    for (int rank = 0; rank < b.split; ++rank) {
      const float* stage = stage_of(b.stage, rank, b.split);
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
  // The ring holds more stages where a stage holds fewer faces.
  constexpr int kStages = C::kAligned ? C::kStages * 4 / M::kFaces : 2;
  constexpr int kStage = M::kFaces * C::kFaceGranules;
  const int warp = threadIdx.x >> 5;
  const int warp_n = warp % C::kWarpsN, warp_w = warp / C::kWarpsN;
  const int words = b.tile.count;
  const int tiles = min(C::kTiles, max(0, (words + 7) / 8 - warp_w * C::kTiles));
  const int slot = threadIdx.x / kChunkGranules;
  const bool feeds = slot < (words + 7) / 8 * 8 && slot < C::kWords;
  const Word word = slot < words ? b.tile.word[slot] : Word{0, 0, 0, 0};
  const int granule = threadIdx.x % kChunkGranules * C::kElements;
  const int chunks = b.chunk_to - b.chunk_from;
  const int tube = b.tile.tube;
  // Long tubes: every face is one pass over the chunks; four positions at a time.
  const int passes = kMode == kDirect ? tube : 1;
  const int turns = chunks * passes;
  const int rounds = kMode == kDirect ? (tube + 3) / 4 : 1;
  for (int round = 0; round < rounds; ++round) {
    Accumulators<C, kMode> acc = {};
    const int first = 4 * round;
    const auto chunk_of = [&](int turn) {
      return b.chunk_from + (kMode == kDirect ? turn % chunks : turn);
    };
    const auto pass_of = [&](int turn) { return kMode == kDirect ? turn / chunks : 0; };
    const auto request = [&](int turn) {
      if (turn < turns) {
        request_faces<C, M::kFaces>(b, b.ring + turn % kStages * kStage,
                                    b.tile.first_face + pass_of(turn), chunk_of(turn));
      }
      copy_commit();
    };
    Gradient<C, kMode> gradient;
    const auto at_of = [&](int turn) {
      return static_cast<int64_t>(chunk_of(turn)) * C::kChunk + granule;
    };
    if (feeds && turns > 0) gradient.read(b, word, at_of(0), first);
#pragma unroll 1
    for (int turn = 0; turn < kStages - 1; ++turn) request(turn);
#pragma unroll 1
    for (int turn = 0; turn < turns; ++turn) {
      Granule* operand = b.operand + (turn & 1) * C::kOperand;
      if (feeds) gradient.store(b, operand, word, slot, at_of(turn), first + pass_of(turn));
      copy_wait<kStages - 2>();
      __syncthreads();
      request(turn + kStages - 1);
      if (feeds && turn + 1 < turns) {
        gradient.read(b, word, at_of(turn + 1), first + pass_of(turn + 1));
      }
      compute<C, kMode>(b.ring + turn % kStages * kStage, operand, warp_n, warp_w, tiles, acc);
    }
    copy_wait<0>();
    write_out<C, kMode>(b, acc, first);
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
  const int64_t chunks = (args.d_tgt + C::kChunk - 1) / C::kChunk;
  const Block<C> b{args,
                   tile,
                   ring,
                   ring + C::kRing,
                   reinterpret_cast<float*>(memory),
                   index / tiles * C::kColumns,
                   rank,
                   split,
                   static_cast<int>(rank * chunks / split),
                   static_cast<int>((rank + 1) * chunks / split)};
  switch (tile.tube) {
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
