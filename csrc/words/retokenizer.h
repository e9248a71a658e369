// From the source's token ids to the target's, without the tokenizers.
//
// A row of ids is decoded by concatenating the bytes of its tokens, its text is cut into parts at
// spaces where the target is known to tokenize both sides independently, and the ids of a part come
// from a cache. What the cache lacks is reported, and filled in by the caller from the real
// tokenizer; rows this does not work for are reported, too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "part_cache.h"
#include "piece_encoder.h"

namespace fuse_index::words {

// Byte strings one after another; string i is bytes[offsets[i], offsets[i + 1]).
struct Strings {
  std::vector<int64_t> offsets;
  std::string bytes;

  std::string_view operator[](int64_t i) const {
    const auto at = static_cast<size_t>(offsets[static_cast<size_t>(i)]);
    const auto end = static_cast<size_t>(offsets[static_cast<size_t>(i) + 1]);
    return std::string_view(bytes.data() + at, end - at);
  }
};

struct Source {
  Strings first;               // what a token adds to the text as the first of a row
  Strings inside;              // and after others
  std::vector<uint8_t> exact;  // rows with such a token are left to the tokenizer
  bool strip;                  // white space at both ends of the text is removed
};

enum class Status : uint8_t { kDone = 0, kExact = 1, kMissing = 2 };

struct MissingPart {
  std::string bytes;
  bool initial;
};

// Results of all rows, in order; rows that are not done have no ids and no words.
struct Pass {
  std::vector<uint8_t> status;         // (rows)
  std::vector<int64_t> target_counts;  // (rows)
  std::vector<int64_t> word_counts;    // (rows)
  std::vector<int64_t> target;         // ids, packed
  std::vector<int64_t> p;              // source tokens of every word
  std::vector<int64_t> q;              // target tokens of every word
  std::vector<MissingPart> missing;    // may name a part more than once
};

struct Batch {
  const int64_t* ids;      // (rows, width), in range
  const int64_t* lengths;  // (rows), at most width
  int64_t rows;
  int64_t width;
};

class Retokenizer {
 public:
  // `neighbours`: for each character of the basic plane, whether a space beside it may be a cut.
  Retokenizer(Source source, std::vector<uint8_t> neighbours);

  // Parts that the cache lacks are encoded here where this can be done, and remembered; only the
  // others are missing. To be set before the first pass.
  void use(std::shared_ptr<const PieceEncoder> encoder) { encoder_ = std::move(encoder); }

  Pass process(const Batch& batch, int threads);
  void insert(const std::vector<Part>& parts, const std::vector<PartIds>& values);
  void clear();
  size_t size() const;

 private:
  class Worker;
  struct FreshPart {
    std::string bytes;
    bool initial;
    std::vector<int64_t> ids;
  };

  void remember(const std::vector<Worker>& workers);

  bool is_cut(std::string_view text, size_t at) const;
  bool is_neighbour(uint32_t code) const { return code < neighbours_.size() && neighbours_[code]; }

  Source source_;
  std::vector<uint8_t> neighbours_;
  std::shared_ptr<const PieceEncoder> encoder_;
  PartCache cache_;
  mutable std::shared_mutex mutex_;
};

}  // namespace fuse_index::words
