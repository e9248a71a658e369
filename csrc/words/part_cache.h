// The target's token ids of parts of texts, by the part's bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fuse_index::words {

// A part at the beginning of a text and the same bytes further on are different parts.
struct Part {
  std::string_view bytes;
  bool initial;
};

struct PartIds {
  const int64_t* ids;
  size_t count;
  bool whole;  // the part must not be tokenized alone: its text must be, as a whole
};

// An open-addressing table; keys and ids lie in two growing arrays. Readers may run in parallel,
// a writer must be alone.
class PartCache {
 public:
  PartCache();

  bool find(Part part, PartIds* found) const {
    const uint64_t hash = hash_of(part);
    for (size_t slot = home(hash);; slot = (slot + 1) & mask_) {
      const Entry& entry = entries_[slot];
      if (entry.hash == 0) return false;
      if (entry.hash == hash && entry.key_size == part.bytes.size() &&
          std::string_view(keys_.data() + entry.key, entry.key_size) == part.bytes) {
        *found = {ids_.data() + entry.ids, entry.count, entry.whole != 0};
        return true;
      }
    }
  }

  // A part that is there already keeps its ids.
  void insert(Part part, PartIds value);
  void clear();
  size_t size() const { return size_; }

 private:
  struct Entry {
    uint64_t hash = 0;  // 0: free
    uint64_t key = 0;
    uint64_t ids = 0;
    uint32_t key_size = 0;
    uint32_t count = 0;
    uint32_t whole = 0;
  };

  // Never 0; the lowest bit of the seed tells initial parts apart.
  static uint64_t hash_of(Part part);
  size_t home(uint64_t hash) const { return (hash >> 8) & mask_; }
  void grow();

  std::vector<Entry> entries_;
  std::string keys_;
  std::vector<int64_t> ids_;
  size_t mask_ = 0;
  size_t size_ = 0;
};

}  // namespace fuse_index::words
