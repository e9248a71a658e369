// The general pull-back kernel: how gradient rows become the operand of the matrix unit.
#pragma once

#include "ring.cuh"

namespace fuse_index {

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

}  // namespace fuse_index
