// Plans and launches the bulk kernel: the rows first, then the products, which start loading faces
// while the rows are still being transformed. No allocation, no waiting.
#include <algorithm>

#include "../kernels/bulk.cuh"
#include "../kernels/rows_kernel.cuh"
#include "bulk.h"
#include "tiles.h"

namespace fuse_index {
namespace {

using EncodeTiled = decltype(&cuTensorMapEncodeTiled);

// The driver's function; the module does not link against the driver.
cudaError_t find_encode(EncodeTiled& encode) {
  static void* found = nullptr;
  static const cudaError_t status = [] {
    cudaDriverEntryPointQueryResult result{};
#if CUDART_VERSION >= 12050
    const cudaError_t code = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                              12000, cudaEnableDefault, &result);
#else
    const cudaError_t code =
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    if (code != cudaSuccess) return code;
    return result == cudaDriverEntryPointSuccess ? cudaSuccess : cudaErrorNotSupported;
  }();
  encode = reinterpret_cast<EncodeTiled>(found);
  return status;
}

template <class T>
constexpr CUtensorMapDataType kMapType = CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
template <>
constexpr CUtensorMapDataType kMapType<__nv_bfloat16> = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
template <>
constexpr CUtensorMapDataType kMapType<__half> = CU_TENSOR_MAP_DATA_TYPE_FLOAT16;

// Boxes of 128 bytes of a block's columns of one face; zeros past the ends.
template <class C>
cudaError_t map_faces(const PullBackArgs& args, CUtensorMap& map) {
  using T = typename C::Type;
  EncodeTiled encode = nullptr;
  const cudaError_t status = find_encode(encode);
  if (status != cudaSuccess) return status;
  const auto size = [](int64_t x) { return static_cast<cuuint64_t>(x); };
  const cuuint64_t sizes[3] = {size(args.d_tgt), size(args.d_src), size(args.n_faces)};
  const cuuint64_t strides[2] = {size(args.d_tgt) * sizeof(T),
                                 size(args.d_tgt * args.d_src) * sizeof(T)};
  const cuuint32_t box[3] = {2 * C::Rows::kSpan, C::kColumns, 1}, steps[3] = {1, 1, 1};
  const CUresult result =
      encode(&map, kMapType<T>, 3, const_cast<void*>(args.faces), sizes, strides, box, steps,
             CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

template <class C>
struct Planned {
  BulkPlan plan;
  int64_t columns;  // blocks
  int64_t bytes;
};

template <class C>
Planned<C> make_plan(const PullBackArgs& args, const DeviceTraits& device, int split, void* base) {
  constexpr int64_t kAlign = 256;
  const int64_t columns = (args.d_src + C::kColumns - 1) / C::kColumns;
  const int64_t tiles = most_tiles(args.words, args.groups, 2 * C::kWords);
  const int64_t chunks = (args.d_tgt + C::Rows::kSpan - 1) / C::Rows::kSpan;
  const int64_t blocks = columns * tiles;
  int64_t parts = split;
  if (split == 0) {  // as many as keep all multiprocessors busy in one wave
    parts = 1;
    while (parts < kMostParts && blocks * parts * 2 <= device.multiprocessors &&
           parts * 16 <= chunks) {
      parts *= 2;
    }
  }
  const int64_t pairs = (chunks + 1) / 2;  // a part has at least one
  parts = std::min<int64_t>({parts, pairs, kMostParts});
  const auto align = [](int64_t x) { return (x + kAlign - 1) / kAlign * kAlign; };
  const int64_t flag_count = (parts - 1) * blocks * C::kConsumers;
  const int64_t partial = (parts - 1) * blocks * kMostTube * C::kSums * 128 * C::kConsumers * 4;
  const int64_t rows = align(tiles * 2 * chunks * C::Rows::kChunkBytes);
  const int64_t found = align(tiles * sizeof(FoundTile<2 * C::kWords>));
  auto* at = static_cast<unsigned char*>(base);
  BulkPlan plan{};
  plan.rows = at;
  plan.found = at + rows;
  plan.partial = reinterpret_cast<float*>(at + rows + found);
  plan.flags = reinterpret_cast<int*>(at + rows + found + align(partial));
  plan.flag_count = flag_count;
  plan.tiles = static_cast<int>(tiles);
  plan.chunks = static_cast<int>(chunks);
  plan.parts = static_cast<int>(parts);
  for (int64_t i = 0; i <= parts; ++i) {
    plan.bounds[i] = static_cast<int>(std::min(chunks, i * pairs / parts * 2));
  }
  return {plan, columns, rows + found + align(partial) + align(flag_count * 4)};
}

template <class C>
cudaError_t launch(const PullBackArgs& args, const DeviceTraits& device, int split, void* workspace,
                   cudaStream_t stream) {
  using T = typename C::Type;
  const auto planned = make_plan<C>(args, device, split, workspace);
  const BulkPlan& plan = planned.plan;
  if (planned.columns > 65535 || plan.tiles > 65535 || args.d_src > INT32_MAX ||
      args.d_tgt > INT32_MAX) {
    return cudaErrorInvalidConfiguration;
  }
  CUtensorMap map;
  cudaError_t status = map_faces<C>(args, map);
  if (status != cudaSuccess) return status;
  const dim3 grid(plan.chunks, plan.tiles);
  transform_rows_kernel<T, C::kWords><<<grid, kRowsThreads, 0, stream>>>(args, plan);
  status = cudaGetLastError();
  if (status != cudaSuccess) return status;
  LaunchShape shape;
  shape.grid = dim3(plan.tiles, static_cast<unsigned>(planned.columns), plan.parts);
  shape.threads = C::kThreads;
  shape.shared_bytes = C::kBytes;
  shape.early = true;
  return launch_kernel(bulk_kernel<C>, shape, stream, map, args, plan);
}

// Calls `f` with the configuration of a storage type.
template <class F>
auto with_config(DType dtype, bool wide, const F& f) {
  switch (dtype) {
    case DType::kBFloat16:
      return wide ? f(BulkConfig<__nv_bfloat16, 64, 2, 4>{})
                  : f(BulkConfig<__nv_bfloat16, 32, 3, 6>{});
    case DType::kFloat16:
      return wide ? f(BulkConfig<__half, 64, 2, 4>{}) : f(BulkConfig<__half, 32, 3, 6>{});
    default:
      return f(BulkConfig<float, 32, 3, 3>{});  // no registers for more words
  }
}

}  // namespace

int64_t bulk_workspace(const PullBackArgs& args, DType dtype, const DeviceTraits& device, bool wide,
                       int split) {
  return with_config(dtype, wide, [&](auto config) {
    return make_plan<decltype(config)>(args, device, split, nullptr).bytes;
  });
}

cudaError_t launch_bulk(const PullBackArgs& args, DType dtype, const DeviceTraits& device,
                        bool wide, int split, void* workspace, cudaStream_t stream) {
  return with_config(dtype, wide, [&](auto config) {
    return launch<decltype(config)>(args, device, split, workspace, stream);
  });
}

}  // namespace fuse_index
