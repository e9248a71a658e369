// Chooses the shape of the blocks and launches the pull-back kernel: no allocation, no waiting.
// Included once for each storage type, so that they compile side by side.
#pragma once

#include "../kernels/pull_back.cuh"
#include "common.h"
#include "thin.cuh"
#include "tiles.h"

namespace fuse_index {

// Clusters of more than two blocks leave multiprocessors idle: not every GPC holds a multiple of
// four (measured: docs/kernels.md).
constexpr int kMostSplit = 2;

// Blocks of a grid whose sums are not split.
template <class C>
int64_t blocks_of(const PullBackArgs& args) {
  return (args.d_src + C::kColumns - 1) / C::kColumns *
         most_tiles(args.words, args.groups, C::kWords);
}

template <class C>
cudaError_t launch(const PullBackArgs& args, const DeviceTraits& device, int split,
                   cudaStream_t stream) {
  const int64_t columns = (args.d_src + C::kColumns - 1) / C::kColumns;
  const int64_t tiles = most_tiles(args.words, args.groups, C::kWords);
  const int64_t turns = (args.d_tgt + C::kSpan - 1) / C::kSpan;
  if (!device.clusters) {
    split = 1;
  } else if (split == 0) {  // as many parts as keep all multiprocessors busy in one wave
    split = 1;
    while (split < kMostSplit && columns * tiles * split * 2 <= device.multiprocessors &&
           split * 2 <= turns) {
      split *= 2;
    }
  }
  const int64_t blocks = columns * tiles * split;
  if (blocks > INT32_MAX || tiles > INT32_MAX / 8 || turns > INT32_MAX / 8) {
    return cudaErrorInvalidConfiguration;
  }
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks));
  shape.threads = C::kThreads;
  shape.shared_bytes = C::kBytes;
  shape.cluster = split;
  return launch_kernel(pull_back_kernel<C>, shape, stream, args, split, static_cast<int>(tiles));
}

template <class... C>
constexpr int most_bytes() {
  int most = 0;
  ((most = C::kBytes > most ? C::kBytes : most), ...);
  return most;
}

// Whether the thin kernel is the fastest, by measured crossovers (docs/kernels.md): few words; of
// one group, whose tube is known, also no more products than in the transform domain. Long tubes,
// which have no transform, are always faster here.
inline bool is_thin(const PullBackArgs& args) {
  constexpr int64_t kMostWords = 64;
  constexpr int64_t kProducts[5] = {0, 1, 2, 5, 6};  // for each eight words
  const int64_t tube = args.n_faces, eights = (args.words + 7) / 8;
  if (args.tubes_done > 0) return true;
  if (args.words > kMostWords) return false;
  return args.groups > 1 || tube > 4 ||
         tube * ((tube * args.words + 7) / 8) <= kProducts[tube] * eights;
}

template <class T>
cudaError_t choose(const PullBackArgs& args, const DeviceTraits& device, PullBackVariant variant,
                   int split, cudaStream_t stream) {
  using Thin = ThinConfig<T, 16, 3>;             // 16 columns, 32 words
  using Few = Config<T, 2, 1, 4, 2, 3, true>;    // 32 columns, 16 words
  using Many = Config<T, 4, 2, 1, 4, 4, true>;   // 64 columns, 64 words
  using Small = Config<T, 4, 1, 1, 2, 3, true>;  // 64 columns, 16 words; sm_80 to sm_120
  using Loose = Config<T, 4, 1, 1, 2, 2, false>;
  static_assert(most_bytes<Few, Many>() <= 232448, "sm_90 and sm_100");
  static_assert(thin_bytes<Thin>() <= 166912, "sm_80");
  static_assert(most_bytes<Small, Loose>() <= 101376, "sm_86, sm_89, sm_120");
  if (!is_aligned(args, sizeof(T))) return launch<Loose>(args, device, split, stream);
  const bool can_be_thin =
      longest_tube(args) <= kThinMostTube && device.shared_bytes >= thin_bytes<Thin>();
  if (variant == PullBackVariant::kThin && !can_be_thin) variant = PullBackVariant::kAuto;
  if (variant == PullBackVariant::kAuto && can_be_thin && is_thin(args)) {
    variant = PullBackVariant::kThin;
  }
  if (variant == PullBackVariant::kThin) return launch_thin<Thin>(args, device, stream);
  if (device.shared_bytes < most_bytes<Few, Many>()) {
    return launch<Small>(args, device, split, stream);
  }
  if (variant == PullBackVariant::kAuto) {
    const int64_t used = args.groups < args.words ? args.groups : args.words;
    const bool thin = args.words <= used * Few::kWords;
    variant = thin ? PullBackVariant::kFew : PullBackVariant::kMany;
  }
  if (variant == PullBackVariant::kFew) return launch<Few>(args, device, split, stream);
  return launch<Many>(args, device, split, stream);
}

}  // namespace fuse_index
