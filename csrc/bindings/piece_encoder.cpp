// Exports of the piece encoder: lists of strings and NumPy arrays; Python has checked everything.
#include "../words/piece_encoder.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "registry.h"

namespace py = pybind11;

namespace fuse_index {
namespace {

using words::LongestWords;
using words::Merge;
using words::PairMerges;
using words::PieceEncoder;
using words::Split;
using Int64Array = py::array_t<int64_t, py::array::c_style>;

// Merges are rows of three ids, characters rows of 128.
PieceEncoder from_merges(int split, bool lower, const Int64Array& characters,
                         const Int64Array& merges, std::vector<std::string> words,
                         std::vector<int64_t> word_ids) {
  PairMerges model;
  model.words = std::move(words);
  model.word_ids = std::move(word_ids);
  for (py::ssize_t i = 0; i < 128; ++i) {
    model.inside[static_cast<size_t>(i)] = characters.at(0, i);
    model.last[static_cast<size_t>(i)] = characters.at(1, i);
  }
  for (py::ssize_t i = 0; i < merges.shape(0); ++i) {
    model.merges.push_back(Merge{merges.at(i, 0), merges.at(i, 1), merges.at(i, 2)});
  }
  return {static_cast<Split>(split), lower, std::move(model)};
}

PieceEncoder from_words(int split, bool lower, std::vector<std::string> first,
                        std::vector<int64_t> first_ids, std::vector<std::string> further,
                        std::vector<int64_t> further_ids, int64_t unknown, size_t longest) {
  return {static_cast<Split>(split), lower,
          LongestWords{std::move(first), std::move(first_ids), std::move(further),
                       std::move(further_ids), unknown, longest}};
}

// Ids of the texts it knows, packed; the number of each text's ids, -1 where it does not know it.
py::tuple encode(const PieceEncoder& self, const std::vector<std::string>& texts) {
  std::vector<int64_t> counts;
  std::vector<int64_t> ids;
  {
    const py::gil_scoped_release released;
    counts.reserve(texts.size());
    for (const std::string& text : texts) {
      const size_t before = ids.size();
      const bool known = self.encode(text, &ids);
      counts.push_back(known ? static_cast<int64_t>(ids.size() - before) : -1);
    }
  }
  return py::make_tuple(Int64Array(static_cast<py::ssize_t>(counts.size()), counts.data()),
                        Int64Array(static_cast<py::ssize_t>(ids.size()), ids.data()));
}

}  // namespace

FUSE_INDEX_BINDINGS(piece_encoder) {
  py::class_<PieceEncoder, std::shared_ptr<PieceEncoder>>(module, "PieceEncoder")
      .def_static("from_merges", &from_merges)
      .def_static("from_words", &from_words)
      .def("encode", &encode);
}

}  // namespace fuse_index
