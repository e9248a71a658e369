// Which words a block works on, derived on the device from the groups of the words, so that the
// host needs nothing but upper bounds and the launch can be captured in a graph.
#pragma once

#include "args.h"

namespace fuse_index {

struct Word {
  int64_t source_row;
  int64_t target_row;
  int p;
  int q;
};

template <int kWords>
struct Tile {
  Word word[kWords];
  int warp_sums[2][32];
  int group;
  int part;  // which tile of the group
  int count;
  int64_t first_face;
  int tube;
};

__device__ __forceinline__ int64_t clamp_to(int64_t x, int64_t low, int64_t high) {
  return x < low ? low : (x > high ? high : x);
}

__device__ __forceinline__ Word read_word(const PullBackArgs& args, int w) {
  const int64_t s0 = clamp_to(__ldg(args.source_offsets + w), 0, args.source_rows);
  const int64_t s1 = clamp_to(__ldg(args.source_offsets + w + 1), s0, args.source_rows);
  const int64_t t0 = clamp_to(__ldg(args.target_offsets + w), 0, args.target_rows);
  const int64_t t1 = clamp_to(__ldg(args.target_offsets + w + 1), t0, args.target_rows);
  return {s0, t0, static_cast<int>(s1 - s0), static_cast<int>(t1 - t0)};
}

// Tiles are numbered group after group, the last group first, because long tubes usually come last
// and take longest; each group has ceil(words / kWords) of them. Returns false where tile `index`
// does not exist. Called by all threads of the block; `counts` is scratch of kMaxGroups integers in
// shared memory.
template <int kWords>
__device__ bool find_tile(const PullBackArgs& args, int64_t index, Tile<kWords>& tile,
                          int* counts) {
  const int tid = threadIdx.x, threads = blockDim.x, lane = tid & 31, warp = tid >> 5;
  const int groups = static_cast<int>(args.groups), words = static_cast<int>(args.words);
  // Everything a small batch needs, two words a thread, is requested at once: one memory latency
  // instead of four, or seven.
  int64_t my_group = -1, next_group = -1, faces_from = 0, faces_to = 0;
  Word my_word{}, next_word{};
  if (tid < words) {
    my_group = __ldg(args.word_groups + tid);
    my_word = read_word(args, tid);
  }
  if (tid + threads < words) {
    next_group = __ldg(args.word_groups + tid + threads);
    next_word = read_word(args, tid + threads);
  }
  const auto group_of = [&](int w) {
    if (w < threads) return my_group;
    if (w < 2 * threads) return next_group;
    return w < words ? __ldg(args.word_groups + w) : int64_t{-1};
  };
  const auto word_of = [&](int w) {
    return w < threads ? my_word : (w < 2 * threads ? next_word : read_word(args, w));
  };
  if (tid < 32 && 31 - lane < groups) {
    faces_from = __ldg(args.face_offsets + 31 - lane);
    faces_to = __ldg(args.face_offsets + 31 - lane + 1);
  }
  for (int g = tid; g < groups; g += threads) counts[g] = 0;
  if (tid == 0) tile.group = -1;
  __syncthreads();
  for (int w = tid; w < words; w += threads) {
    const int64_t g = group_of(w);
    if (g >= 0 && g < groups) {  // one addition for all lanes of the warp that agree
      const unsigned peers = __match_any_sync(__activemask(), static_cast<int>(g));
      if (lane == __ffs(static_cast<int>(peers)) - 1) atomicAdd(&counts[g], __popc(peers));
    }
  }
  __syncthreads();
  if (warp == 0) {
    int64_t before = 0;
    for (int last = (groups - 1) / 32 * 32; last >= 0; last -= 32) {
      const int g = last + 31 - lane;  // lanes run from the last group to the first
      int64_t first = 0, tube = 0;
      if (g < groups) {
        first = last == 0 ? faces_from : __ldg(args.face_offsets + g);
        tube = (last == 0 ? faces_to : __ldg(args.face_offsets + g + 1)) - first;
      }
      const bool fits = first >= 0 && tube >= 1 && first + tube <= args.n_faces;
      const int mine = fits ? (counts[g] + kWords - 1) / kWords : 0;
      int sum = mine;
      for (int d = 1; d < 32; d *= 2) {
        const int left = __shfl_up_sync(~0u, sum, d);
        if (lane >= d) sum += left;
      }
      const int64_t start = before + sum - mine;
      if (index >= start && index < start + mine) {
        tile.group = g;
        tile.part = static_cast<int>(index - start);
        tile.first_face = first;
        tile.tube = static_cast<int>(tube);
      }
      before += __shfl_sync(~0u, sum, 31);
    }
  }
  __syncthreads();
  const int group = tile.group;
  if (group < 0) return false;
  const int first_rank = tile.part * kWords;
  int seen = 0;
  for (int base = 0, turn = 0; base < words && seen < first_rank + kWords;
       base += threads, turn ^= 1) {
    const int w = base + tid;
    const bool mine = group_of(w) == group;
    const unsigned vote = __ballot_sync(~0u, mine);
    if (lane == 0) tile.warp_sums[turn][warp] = __popc(vote);
    __syncthreads();
    int rank = seen + __popc(vote & ((1u << lane) - 1u));
    for (int i = 0; i < threads / 32; ++i) {
      const int sum = tile.warp_sums[turn][i];
      if (i < warp) rank += sum;
      seen += sum;
    }
    const int slot = rank - first_rank;
    if (mine && slot >= 0 && slot < kWords) {
      tile.word[slot] = word_of(w);
    }
  }
  if (tid == 0) tile.count = min(kWords, seen - first_rank);
  __syncthreads();
  return true;
}

}  // namespace fuse_index
