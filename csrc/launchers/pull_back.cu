// Entry point of the pull-back on CUDA: checks the limits, picks the kernel and dispatches on the
// storage type.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../kernels/args.h"
#include "bulk.h"
#include "common.h"
#include "tiles.h"

namespace fuse_index {

// Defined in pull_back.cuh, instantiated in one source for each storage type.
template <class T>
cudaError_t choose(const PullBackArgs& args, const DeviceTraits& device, PullBackVariant variant,
                   int split, cudaStream_t stream);

namespace {

#ifdef FUSE_INDEX_WITH_SM90A
// Measured crossovers to the bulk variants (docs/kernels.md): words times both widths, words a
// group on average, and words a group from which 128 words a block beat 64.
constexpr int64_t kBulkFrom = int64_t{1} << 28;
constexpr int64_t kBulkWords = 16;
constexpr int64_t kWideWords = 128;
// More than this is not asked for: half-empty tiles of many groups.
constexpr int64_t kMostWorkspace = int64_t{1} << 28;

// Tubes up to this length have a transform.
constexpr int kShortTube = 4;
#endif

bool is_bulk(PullBackVariant variant) {
  return variant == PullBackVariant::kBulk64 || variant == PullBackVariant::kBulk128;
}

// Turns kAuto into a bulk variant where that is the fastest, and bulk variants into kAuto where
// they cannot run.
PullBackVariant settle(const PullBackArgs& args, DType dtype, const DeviceTraits& device,
                       PullBackVariant variant) {
#ifdef FUSE_INDEX_WITH_SM90A
  const int64_t element = dtype == DType::kFloat32 ? 4 : 2;
  const bool possible =
      device.hopper && is_aligned(args, element) && args.d_tgt > 0 && args.n_faces > 0;
  if (possible && variant == PullBackVariant::kAuto) {
    const int64_t used = args.groups < args.words ? args.groups : args.words;
    const bool large = args.words * args.d_src * args.d_tgt >= kBulkFrom;
    if (large && args.words > used * kBulkWords) {
      const bool wide = dtype != DType::kFloat32 && args.words > used * kWideWords;
      if (bulk_workspace(args, dtype, device, wide, 0) <= kMostWorkspace) {
        return wide ? PullBackVariant::kBulk128 : PullBackVariant::kBulk64;
      }
    }
  }
#else
  constexpr bool possible = false;
  (void)args, (void)dtype, (void)device;
#endif
  return is_bulk(variant) && !possible ? PullBackVariant::kAuto : variant;
}

}  // namespace

cudaError_t pull_back_workspace(const PullBackArgs& args, DType dtype, int device,
                                PullBackVariant variant, int split, int64_t& bytes) {
  bytes = 0;
  DeviceTraits traits;
  const cudaError_t status = device_traits(device, traits);
  if (status != cudaSuccess) return status;
  variant = settle(args, dtype, traits, variant);
#ifdef FUSE_INDEX_WITH_SM90A
  if (is_bulk(variant)) {
    bytes = bulk_workspace(args, dtype, traits, variant == PullBackVariant::kBulk128, split);
  }
#else
  (void)split;
#endif
  return cudaSuccess;
}

cudaError_t launch_pull_back(const PullBackArgs& args, DType dtype, int device,
                             PullBackVariant variant, int split, void* workspace,
                             cudaStream_t stream) {
  if (args.words == 0 || args.source_rows == 0 || args.d_src == 0) return cudaSuccess;
  if (args.groups > kMaxGroups || args.words > INT32_MAX) return cudaErrorInvalidValue;
  const DeviceGuard guard(device);
  if (guard.status() != cudaSuccess) return guard.status();
  DeviceTraits traits;
  cudaError_t status = device_traits(device, traits);
  if (status != cudaSuccess) return status;
  variant = settle(args, dtype, traits, variant);
  PullBackArgs rest = args;
#ifdef FUSE_INDEX_WITH_SM90A
  if (is_bulk(variant)) {
    status = launch_bulk(args, dtype, traits, variant == PullBackVariant::kBulk128, split,
                         workspace, stream);
    if (status != cudaSuccess || longest_tube(args) <= kShortTube) return status;
    rest.tubes_done = kShortTube;
    variant = PullBackVariant::kAuto;
    split = 0;
  }
#else
  (void)workspace;
#endif
  switch (dtype) {
    case DType::kFloat32:
      return choose<float>(rest, traits, variant, split, stream);
    case DType::kBFloat16:
      return choose<__nv_bfloat16>(rest, traits, variant, split, stream);
    case DType::kFloat16:
      return choose<__half>(rest, traits, variant, split, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace fuse_index
