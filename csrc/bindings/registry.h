// Every binding source registers itself, so that a new file needs no edit elsewhere:
//
//   FUSE_INDEX_BINDINGS(words) { module.def(...); }
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

namespace fuse_index {

using BindFunction = void (*)(pybind11::module_&);

inline std::vector<BindFunction>& binders() {
  static std::vector<BindFunction> list;
  return list;
}

struct Binder {
  explicit Binder(BindFunction bind) { binders().push_back(bind); }
};

}  // namespace fuse_index

#define FUSE_INDEX_BINDINGS(name)                               \
  static void bind_##name(pybind11::module_& module);           \
  static const ::fuse_index::Binder binder_##name{bind_##name}; \
  static void bind_##name([[maybe_unused]] pybind11::module_& module)
