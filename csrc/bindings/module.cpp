// The extension module: what it was built from; everything else registers itself.
#include "registry.h"

PYBIND11_MODULE(_C, module) {
  module.doc() = "Native core of fuse_index; loaded and checked by fuse_index.ops._native";
  module.attr("version") = FUSE_INDEX_VERSION;
#ifdef FUSE_INDEX_WITH_CUDA
  module.attr("has_cuda") = true;
#else
  module.attr("has_cuda") = false;
#endif
  for (const auto bind : fuse_index::binders()) bind(module);
}
