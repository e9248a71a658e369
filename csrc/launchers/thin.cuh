// Launches the thin kernel: no allocation, no waiting.
#pragma once

#include "../kernels/thin.cuh"
#include "common.h"

namespace fuse_index {

template <class C>
constexpr int thin_bytes() {
  return C::kWork + static_cast<int>(sizeof(ThinTable<C>));
}

template <class C>
cudaError_t launch_thin(const PullBackArgs& args, const DeviceTraits& device, cudaStream_t stream) {
  const int64_t parts = (args.words + kThinWords - 1) / kThinWords;
  if (parts > 65535 || args.d_src > INT32_MAX / 8 || args.d_tgt > INT32_MAX / 8) {
    return cudaErrorInvalidConfiguration;
  }
  const int64_t blocks = device.multiprocessors / parts;  // which take turns
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(blocks > 0 ? blocks : 1), static_cast<unsigned>(parts));
  shape.threads = C::kThreads;
  shape.shared_bytes = thin_bytes<C>();
  shape.early = device.early;
  return launch_kernel(thin_kernel<C>, shape, stream, args);
}

}  // namespace fuse_index
