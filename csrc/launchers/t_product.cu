// Launches the batched t-product: no allocation, no waiting.
#include "../kernels/t_product.cuh"
#include "common.h"

namespace fuse_index {
namespace {

template <class T>
cudaError_t launch(const TProductArgs& args, cudaStream_t stream) {
  const int64_t rows = (args.n1 + kProductTile - 1) / kProductTile;
  const int64_t columns = (args.n3 + kProductTile - 1) / kProductTile;
  const int64_t blocks = args.batch * args.tube * rows * columns;
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  t_product_kernel<T>
      <<<static_cast<unsigned>(blocks), kProductThreads, 0, stream>>>(args, rows, columns);
  return cudaGetLastError();
}

}  // namespace

cudaError_t launch_t_product(const TProductArgs& args, DType dtype, int device,
                             cudaStream_t stream) {
  if (args.batch * args.tube * args.n1 * args.n3 == 0) return cudaSuccess;
  const DeviceGuard guard(device);
  if (guard.status() != cudaSuccess) return guard.status();
  switch (dtype) {
    case DType::kFloat32:
      return launch<float>(args, stream);
    case DType::kBFloat16:
      return launch<__nv_bfloat16>(args, stream);
    case DType::kFloat16:
      return launch<__half>(args, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace fuse_index
