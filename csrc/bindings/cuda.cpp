// Exports of the CUDA launchers: integers only; Python has checked everything.
#ifdef FUSE_INDEX_WITH_CUDA

#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "../kernels/args.h"
#include "registry.h"

namespace py = pybind11;

namespace fuse_index {
namespace {

void check(const char* op, cudaError_t status) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the error is reported here, not by the next caller
  throw std::runtime_error(std::string(op) + ": " + cudaGetErrorName(status) + ": " +
                           cudaGetErrorString(status));
}

template <class T>
T* pointer(uint64_t address) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

PullBackArgs pull_back_args(uint64_t target_grad, uint64_t faces, uint64_t out,
                            uint64_t face_offsets, uint64_t word_groups, uint64_t source_offsets,
                            uint64_t target_offsets, int64_t words, int64_t groups, int64_t n_faces,
                            int64_t source_rows, int64_t target_rows, int64_t d_src,
                            int64_t d_tgt) {
  return {pointer<const void>(target_grad),
          pointer<const void>(faces),
          pointer<void>(out),
          pointer<const int64_t>(face_offsets),
          pointer<const int64_t>(word_groups),
          pointer<const int64_t>(source_offsets),
          pointer<const int64_t>(target_offsets),
          words,
          groups,
          n_faces,
          source_rows,
          target_rows,
          d_src,
          d_tgt};
}

int64_t pull_back_bytes(const PullBackArgs& args, int dtype, int device, int variant, int split) {
  int64_t bytes = 0;
  check("fuse_index::pull_back",
        pull_back_workspace(args, static_cast<DType>(dtype), device,
                            static_cast<PullBackVariant>(variant), split, bytes));
  return bytes;
}

void pull_back(const PullBackArgs& args, int dtype, int device, int variant, int split,
               uint64_t workspace, uint64_t stream) {
  check("fuse_index::pull_back",
        launch_pull_back(args, static_cast<DType>(dtype), device,
                         static_cast<PullBackVariant>(variant), split, pointer<void>(workspace),
                         pointer<CUstream_st>(stream)));
}

void t_product(uint64_t a, uint64_t b, uint64_t out, int64_t batch, int64_t tube, int64_t n1,
               int64_t n2, int64_t n3, int dtype, int device, uint64_t stream) {
  const TProductArgs args{
      pointer<const void>(a), pointer<const void>(b), pointer<void>(out), batch, tube, n1, n2, n3};
  check("fuse_index::t_product",
        launch_t_product(args, static_cast<DType>(dtype), device, pointer<CUstream_st>(stream)));
}

// (runtime compiled in, newest the driver supports), 1000 * major + 10 * minor; driver 0: none.
py::tuple cuda_versions() {
  int driver = 0;
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  return py::make_tuple(static_cast<int>(CUDART_VERSION), driver);
}

FUSE_INDEX_BINDINGS(cuda) {
  module.attr("max_groups") = kMaxGroups;
  module.attr("cuda_archs") = FUSE_INDEX_ARCHS;
  module.def("cuda_versions", &cuda_versions);
  py::class_<PullBackArgs>(module, "PullBackArgs").def(py::init(&pull_back_args));
  module.def("pull_back_bytes", &pull_back_bytes);
  module.def("pull_back", &pull_back);
  module.def("t_product", &t_product);
}

}  // namespace
}  // namespace fuse_index

#endif  // FUSE_INDEX_WITH_CUDA
