// Entry point of the pull-back on CUDA: checks the limits and dispatches on the storage type.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "../kernels/args.h"
#include "common.h"

namespace fuse_index {

// Defined in pull_back.cuh, instantiated in one source for each storage type.
template <class T>
cudaError_t choose(const PullBackArgs& args, const DeviceTraits& device, PullBackVariant variant,
                   int split, cudaStream_t stream);

cudaError_t launch_pull_back(const PullBackArgs& args, DType dtype, int device,
                             PullBackVariant variant, int split, cudaStream_t stream) {
  if (args.words == 0 || args.source_rows == 0 || args.d_src == 0) return cudaSuccess;
  if (args.groups > kMaxGroups || args.words > INT32_MAX) return cudaErrorInvalidValue;
  const DeviceGuard guard(device);
  if (guard.status() != cudaSuccess) return guard.status();
  DeviceTraits traits;
  const cudaError_t status = device_traits(device, traits);
  if (status != cudaSuccess) return status;
  switch (dtype) {
    case DType::kFloat32:
      return choose<float>(args, traits, variant, split, stream);
    case DType::kBFloat16:
      return choose<__nv_bfloat16>(args, traits, variant, split, stream);
    case DType::kFloat16:
      return choose<__half>(args, traits, variant, split, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace fuse_index
