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

#include "mma.cuh"
#include "spectrum.cuh"
#include "tile.cuh"

namespace fuse_index {

namespace cg = cooperative_groups;

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
          bool kAligned_, int kBlocks_>
struct Config {
  using Type = T;
  static constexpr int kWarpsN = kWarpsN_, kWarpsW = kWarpsW_, kWarpsK = kWarpsK_;
  static constexpr int kTiles = kTiles_, kStages = kStages_;
  static constexpr bool kAligned = kAligned_;
  static constexpr int kBlocks = kBlocks_;  // a multiprocessor holds
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

// Feeds one granule of one word: target rows come through the ring to the same thread, which
// transforms them and writes the operand.
template <class C, int kMode>
struct Feeder {
  using T = typename C::Type;
  using U = Units<T>;
  using M = Mode<kMode>;

  Word word;
  const T* rows;
  int slot;
  int granule;
  bool active;

  __device__ __forceinline__ explicit Feeder(const Block<C>& b) {
    slot = threadIdx.x / C::kRowGranules;
    granule = threadIdx.x % C::kRowGranules;
    active = slot < (b.tile.count + 7) / 8 * 8;
    word = slot < b.tile.count ? b.tile.word[slot] : Word{0, 0, 0, 0};
    rows = static_cast<const T*>(b.args.target_grad) + word.target_row * b.args.d_tgt;
  }

  // Position of the i-th row read: the tube position, or for long tubes that of accumulator i.
  static __device__ __forceinline__ int position(int i, int shift, int tube) {
    return kMode == kDirect ? (i + shift) % tube : i;
  }

  __device__ __forceinline__ void request(const Block<C>& b, Granule* stage, int64_t at,
                                          int shift) const {
    if (!active) return;
#pragma unroll
    for (int i = 0; i < M::kRead; ++i) {
      const int t = position(i, shift, b.tile.tube);
      const bool inside = t < word.q;
      request_granule<C>(stage + i * C::kFeeders + threadIdx.x, rows + t * b.args.d_tgt, at,
                         b.args.d_tgt, inside);
    }
  }

  // Adds the rows past the ones read ahead (words with more target tokens than the tube is long).
  __device__ __forceinline__ void add_rest(const Block<C>& b, int64_t from, int shift,
                                           float (&x)[M::kRead][U::kPerUnit]) const {
    const int64_t width = b.args.d_tgt;
    if (from >= width) return;
    const int tube = b.tile.tube;
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

  // Writes the components: [chunk][component][part][tile of 8][slot % 8][granule].
  __device__ __forceinline__ void store(const Block<C>& b, Granule* to, const Granule* stage,
                                        int64_t at, int shift) const {
    if (!active) return;
    constexpr int kParts = C::kParts, kPer = U::kPerUnit, kN = M::kComponents;
    Granule raw[M::kRead], out[kN][kParts];
#pragma unroll
    for (int i = 0; i < M::kRead; ++i) raw[i] = stage[i * C::kFeeders + threadIdx.x];
#pragma unroll
    for (int unit = 0; unit < 4; ++unit) {
      float x[M::kRead][kPer];
#pragma unroll
      for (int i = 0; i < M::kRead; ++i) U::unpack(raw[i].u[unit], x[i]);
      if constexpr (kMode == kDirect) add_rest(b, at + unit * kPer, shift, x);
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
    to += granule / kChunkGranules * C::kOperandChunk + slot * kChunkGranules +
          granule % kChunkGranules;
#pragma unroll
    for (int i = 0; i < kN; ++i) {
#pragma unroll
      for (int h = 0; h < kParts; ++h) {
        to[(i * kParts + h) * C::kWords * kChunkGranules] = out[i][h];
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

// Which component of the faces meets which of the gradient in which chain of products, and which
// chains a component of the result adds up.
template <int kMode>
struct Chains {
  static constexpr int kReal = kMode == kDirect ? 4 : (kMode <= 2 ? kMode : kMode - 2);
  static constexpr int kCount = kMode <= 2 ? kReal : kReal + 4;  // four of a complex product
};

// All products of one chunk. kFull: no tile of the warp is empty, so that there is no branch
// between the tiles and their products overlap.
template <class C, int kMode, bool kFull>
__device__ __forceinline__ void compute(const Granule* faces, const Granule* operand, int warp_n,
                                        int warp_w, int tiles, Accumulators<C, kMode>& acc) {
  using T = typename C::Type;
  using M = Mode<kMode>;
  constexpr int kN = M::kComponents, kF = M::kFaces;
  constexpr int kReal = Chains<kMode>::kReal, kChains = Chains<kMode>::kCount;
  Fragment<C> a[kF + 1];  // the last is - Im F
  {
    Granule half[2][kF];
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
      for (int j = 0; j < kF; ++j) {
        half[h][j] =
            faces[j * C::kWarpsK * C::kFaceChunk + (warp_n * 2 + h) * 32 + (threadIdx.x & 31)];
      }
      if constexpr (kMode > 1) {
#pragma unroll
        for (int unit = 0; unit < 4; ++unit) {
          Unit x[kF];
#pragma unroll
          for (int j = 0; j < kF; ++j) x[j] = half[h][j].u[unit];
          to_spectrum<kF, Units<T>>(x);
#pragma unroll
          for (int j = 0; j < kF; ++j) half[h][j].u[unit] = x[j];
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kF; ++j) a[j].set(half[0][j], half[1][j]);
  }
  if constexpr (kMode > 2) {
    a[kF] = a[kF - 1];
    a[kF].negate();
  }
#pragma unroll
  for (int tile = 0; tile < C::kTiles; ++tile) {
    if (!kFull && tile >= tiles) break;
    Column<C> b[kN];
#pragma unroll
    for (int i = 0; i < kN; ++i) b[i].load(operand, i, warp_w * C::kTiles + tile);
    // Chain i: d[into(i)] += a[left(i)] b[right(i)]. The complex product conj(F) g is
    // Re: F_re g_re + F_im g_im and Im: F_re g_im - F_im g_re.
    const auto left = [](int i) {
      if (kMode == kDirect) return 0;
      return i < kReal ? i : (i < kReal + 2 ? kReal : (i == kReal + 2 ? kF - 1 : kF));
    };
    const auto right = [](int i) {
      if (i < kReal) return i;
      return i == kReal || i == kReal + 3 ? kN - 2 : kN - 1;
    };
    const auto into = [](int i) { return i < kReal ? i : kReal + (i - kReal) % 2; };
    if constexpr (C::kParts == 2) {
      // Chains are summed apart, small products first; see the head of the file.
      float apart[kChains][4] = {};
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int term = 0; term < 3; ++term) {
#pragma unroll
          for (int i = 0; i < kChains; ++i) {
            const auto& x = a[left(i)].part[term == 0 ? 1 : 0][step];
            const auto& y = b[right(i)].part[term == 1 ? 1 : 0];
            mma<T>(apart[i], x, y.u[2 * step], y.u[2 * step + 1]);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < kChains; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[into(i)][tile][e] += apart[i][e];
      }
    } else {
#pragma unroll
      for (int step = 0; step < 2; ++step) {
#pragma unroll
        for (int i = 0; i < kChains; ++i) {
          const auto& y = b[right(i)].part[0];
          mma<T>(acc[into(i)][tile], a[left(i)].part[0][step], y.u[2 * step], y.u[2 * step + 1]);
        }
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
__global__ void __launch_bounds__(C::kThreads, C::kBlocks)
    pull_back_kernel(const PullBackArgs args, int split, int tiles) {
  extern __shared__ __align__(16) unsigned char memory[];
  constexpr int kWork = C::kBytes - static_cast<int>(sizeof(Tile<C::kWords>));
  auto* ring = reinterpret_cast<Granule*>(memory);
  auto& tile = *reinterpret_cast<Tile<C::kWords>*>(memory + kWork);
  // Blocks of one cluster share the tile; tiles of the same columns follow each other, so that
  // words of one group that need several tiles find the faces in the L2 cache.
  const int rank = static_cast<int>(blockIdx.x % split);
  const int64_t index = blockIdx.x / split;
  // Longer tubes usually come last and take longest, so the last tiles start first.
  if (!find_tile(args, tiles - 1 - index % tiles, tile, reinterpret_cast<int*>(ring))) return;
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
