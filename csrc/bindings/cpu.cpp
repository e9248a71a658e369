// Exports of the CPU kernels: integers only; Python has checked everything. The GIL is released.
#include <pybind11/stl.h>

#include <array>

#include "../cpu/pull_back.h"
#include "registry.h"

namespace fuse_index {
namespace {

// One group: addresses of faces, gradient and out, then tube, words and positions.
using GroupRecord = std::array<int64_t, 6>;

template <class T>
T* pointer(int64_t address) {
  return reinterpret_cast<T*>(static_cast<uintptr_t>(address));
}

void cpu_pull_back(const std::vector<GroupRecord>& records, int64_t d_src, int64_t d_tgt, int dtype,
                   int threads) {
  std::vector<cpu::Group> groups;
  groups.reserve(records.size());
  for (const auto& r : records) {
    groups.push_back({pointer<const void>(r[0]), pointer<const float>(r[1]), pointer<float>(r[2]),
                      r[3], r[4], r[5]});
  }
  const pybind11::gil_scoped_release released;
  cpu::pull_back(groups.data(), static_cast<int64_t>(groups.size()), {d_src, d_tgt},
                 static_cast<cpu::DType>(dtype), threads);
}

FUSE_INDEX_BINDINGS(cpu) { module.def("cpu_pull_back", &cpu_pull_back); }

}  // namespace
}  // namespace fuse_index
