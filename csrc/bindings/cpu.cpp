// Exports of the CPU kernels: integers only; Python has checked everything. The GIL is released.
#include "../cpu/pull_back.h"
#include "registry.h"

namespace fuse_index {
namespace {

template <class T>
T* pointer(uint64_t address) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

void cpu_pull_back(uint64_t target_grad, uint64_t faces, uint64_t out, uint64_t face_offsets,
                   uint64_t word_groups, uint64_t source_offsets, uint64_t target_offsets,
                   int64_t words, int64_t groups, int64_t d_src, int64_t d_tgt, int dtype,
                   int threads) {
  const cpu::PullBackArgs args{pointer<const void>(target_grad),
                               pointer<const void>(faces),
                               pointer<float>(out),
                               pointer<const int64_t>(face_offsets),
                               pointer<const int64_t>(word_groups),
                               pointer<const int64_t>(source_offsets),
                               pointer<const int64_t>(target_offsets),
                               words,
                               groups,
                               d_src,
                               d_tgt};
  const pybind11::gil_scoped_release released;
  cpu::pull_back(args, static_cast<cpu::DType>(dtype), threads);
}

FUSE_INDEX_BINDINGS(cpu) { module.def("cpu_pull_back", &cpu_pull_back); }

}  // namespace
}  // namespace fuse_index
