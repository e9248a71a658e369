// Exports of the retokenizer: NumPy arrays and byte strings; Python has checked everything.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "../words/retokenizer.h"
#include "registry.h"

namespace py = pybind11;

namespace fuse_index {
namespace {

using words::Batch;
using words::Part;
using words::PartIds;
using words::Pass;
using words::Retokenizer;
using Int64Array = py::array_t<int64_t, py::array::c_style>;

template <class T>
py::array_t<T> to_array(const std::vector<T>& values) {
  return py::array_t<T>(static_cast<py::ssize_t>(values.size()), values.data());
}

std::vector<uint8_t> to_flags(const std::string& bytes) {
  return std::vector<uint8_t>(bytes.begin(), bytes.end());
}

words::Strings to_strings(const Int64Array& offsets, std::string bytes) {
  return {std::vector<int64_t>(offsets.data(), offsets.data() + offsets.size()), std::move(bytes)};
}

py::tuple process(Retokenizer& self, const Int64Array& ids, const Int64Array& lengths,
                  int threads) {
  const Batch batch{ids.data(), lengths.data(), ids.shape(0), ids.shape(1)};
  Pass pass;
  {
    const py::gil_scoped_release released;
    pass = self.process(batch, threads);
  }
  py::set missing;
  for (const auto& part : pass.missing) {
    missing.add(py::make_tuple(py::bytes(part.bytes), part.initial));
  }
  return py::make_tuple(to_array(pass.status), to_array(pass.target_counts), to_array(pass.target),
                        to_array(pass.word_counts), to_array(pass.p), to_array(pass.q),
                        std::move(missing));
}

void insert(Retokenizer& self, const std::vector<std::string>& parts, const std::string& initial,
            const std::string& whole, const Int64Array& offsets, const Int64Array& ids) {
  std::vector<Part> keys;
  std::vector<PartIds> values;
  for (size_t i = 0; i < parts.size(); ++i) {
    const int64_t begin = offsets.at(static_cast<py::ssize_t>(i));
    const int64_t end = offsets.at(static_cast<py::ssize_t>(i + 1));
    keys.push_back({parts[i], initial.at(i) != 0});
    values.push_back({ids.data() + begin, static_cast<size_t>(end - begin), whole.at(i) != 0});
  }
  const py::gil_scoped_release released;
  self.insert(keys, values);
}

}  // namespace

FUSE_INDEX_BINDINGS(retokenize) {
  py::class_<Retokenizer>(module, "Retokenizer")
      .def(py::init([](const Int64Array& first_offsets, std::string first,
                       const Int64Array& inside_offsets, std::string inside,
                       const std::string& exact, bool strip, const std::string& neighbours) {
        return std::make_unique<Retokenizer>(
            words::Source{to_strings(first_offsets, std::move(first)),
                          to_strings(inside_offsets, std::move(inside)), to_flags(exact), strip},
            to_flags(neighbours));
      }))
      .def("use",
           [](Retokenizer& self, std::shared_ptr<words::PieceEncoder> encoder) {
             self.use(std::move(encoder));
           })
      .def("process", &process)
      .def("insert", &insert)
      .def("clear", &Retokenizer::clear, py::call_guard<py::gil_scoped_release>())
      .def("__len__", &Retokenizer::size);
}

}  // namespace fuse_index
