// Chooses the shape of the blocks and launches the pull-back kernel: no allocation, no waiting.
// Included once for each storage type, so that they compile side by side.
#pragma once

#include "../kernels/pull_back.cuh"
#include "common.h"
#include "tiles.h"

namespace fuse_index {

// Clusters of more than two blocks leave multiprocessors idle: not every GPC holds a multiple of
// four (measured: docs/kernels.md).
constexpr int kMostSplit = 2;
constexpr int kMostSplitShared = 4;  // where a multiprocessor holds two blocks

// Blocks of a grid whose sums are not split.
template <class C>
int64_t blocks_of(const PullBackArgs& args) {
  return (args.d_src + C::kColumns - 1) / C::kColumns *
         most_tiles(args.words, args.groups, C::kWords);
}

template <class C>
cudaError_t launch(const PullBackArgs& args, const DeviceTraits& device, int split,
                   cudaStream_t stream) {
  const auto kernel = pull_back_kernel<C>;
  const int64_t columns = (args.d_src + C::kColumns - 1) / C::kColumns;
  const int64_t tiles = most_tiles(args.words, args.groups, C::kWords);
  const int64_t turns = (args.d_tgt + C::kSpan - 1) / C::kSpan;
  if (!device.clusters) {
    split = 1;
  } else if (split == 0) {  // as many parts as keep all multiprocessors busy in one wave
    split = 1;
    constexpr int kMost = C::kBlocks > 1 ? kMostSplitShared : kMostSplit;
    while (split < kMost && columns * tiles * split * 2 <= C::kBlocks * device.multiprocessors &&
           split * 2 <= turns) {
      split *= 2;
    }
  }
  const int64_t blocks = columns * tiles * split;
  if (blocks > INT32_MAX || tiles > INT32_MAX / 8 || turns > INT32_MAX / 8) {
    return cudaErrorInvalidConfiguration;
  }
  cudaError_t status =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, C::kBytes);
  if (status != cudaSuccess) return status;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(C::kThreads);
  config.dynamicSmemBytes = C::kBytes;
  config.stream = stream;
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {static_cast<unsigned>(split), 1, 1};
  config.attrs = &cluster;
  config.numAttrs = split > 1 ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, args, split, static_cast<int>(tiles));
}

inline bool is_aligned(const PullBackArgs& args, int64_t element) {
  const auto bits = reinterpret_cast<uintptr_t>(args.target_grad) |
                    reinterpret_cast<uintptr_t>(args.faces) |
                    static_cast<uintptr_t>(args.d_tgt * element);
  return bits % 16 == 0;
}

template <class... C>
constexpr int most_bytes() {
  int most = 0;
  ((most = C::kBytes > most ? C::kBytes : most), ...);
  return most;
}

template <class T>
cudaError_t choose(const PullBackArgs& args, const DeviceTraits& device, PullBackVariant variant,
                   int split, cudaStream_t stream) {
  using One = Config<T, 4, 1, 2, 1, 2, true, 2>;    // 64 columns, 8 words, two a multiprocessor
  using Few = Config<T, 2, 1, 4, 2, 3, true, 1>;    // 32 columns, 16 words
  using Many = Config<T, 4, 2, 1, 4, 4, true, 1>;   // 64 columns, 64 words
  using Small = Config<T, 4, 1, 1, 2, 3, true, 1>;  // 64 columns, 16 words; sm_80 to sm_120
  using Loose = Config<T, 4, 1, 1, 2, 2, false, 1>;
  static_assert(most_bytes<One, Few, Many>() <= 232448, "sm_90 and sm_100");
  static_assert(most_bytes<Small, Loose>() <= 101376, "sm_86, sm_89, sm_120");
  if (!is_aligned(args, sizeof(T))) return launch<Loose>(args, device, split, stream);
  if (device.shared_bytes < most_bytes<One, Few, Many>()) {
    return launch<Small>(args, device, split, stream);
  }
  if (variant == PullBackVariant::kAuto) {
    const int64_t used = args.groups < args.words ? args.groups : args.words;
    const bool thin = args.words <= used * Few::kWords;
    variant = !thin                                                   ? PullBackVariant::kMany
              : 4 * blocks_of<Few>(args) < 3 * device.multiprocessors ? PullBackVariant::kOne
                                                                      : PullBackVariant::kFew;
  }
  if (variant == PullBackVariant::kOne) return launch<One>(args, device, split, stream);
  if (variant == PullBackVariant::kFew) return launch<Few>(args, device, split, stream);
  return launch<Many>(args, device, split, stream);
}

}  // namespace fuse_index
