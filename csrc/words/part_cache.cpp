#include "part_cache.h"

#include <cstring>

namespace fuse_index::words {
namespace {

constexpr size_t kSmallest = 1024;  // a power of two

uint64_t mix(uint64_t a, uint64_t b) {
  a ^= b;
  a *= 0x9E3779B97F4A7C15ull;
  return a ^ (a >> 32);
}

}  // namespace

PartCache::PartCache() { clear(); }

uint64_t PartCache::hash_of(Part part) {
  const char* data = part.bytes.data();
  size_t left = part.bytes.size();
  uint64_t hash = mix(0x243F6A8885A308D3ull + (part.initial ? 1 : 0), left);
  while (left >= 8) {
    uint64_t block;
    std::memcpy(&block, data, 8);
    hash = mix(hash, block);
    data += 8;
    left -= 8;
  }
  if (left > 0) {
    uint64_t block = 0;
    std::memcpy(&block, data, left);
    hash = mix(hash, block);
  }
  hash = mix(hash, hash >> 29);
  // The lowest bit is the part's kind, so that equal hash and bytes mean an equal part.
  return (hash & ~1ull) | 2ull | (part.initial ? 1 : 0);
}

void PartCache::clear() {
  entries_.assign(kSmallest, Entry());
  mask_ = kSmallest - 1;
  size_ = 0;
  keys_.clear();
  ids_.clear();
}

void PartCache::grow() {
  std::vector<Entry> old(entries_.size() * 2);
  old.swap(entries_);
  mask_ = entries_.size() - 1;
  for (const Entry& entry : old) {
    if (entry.hash == 0) continue;
    size_t slot = home(entry.hash);
    while (entries_[slot].hash != 0) slot = (slot + 1) & mask_;
    entries_[slot] = entry;
  }
}

void PartCache::insert(Part part, PartIds value) {
  PartIds present;
  if (find(part, &present)) return;
  if (2 * (size_ + 1) > entries_.size()) grow();
  Entry entry;
  entry.hash = hash_of(part);
  entry.key = keys_.size();
  entry.key_size = static_cast<uint32_t>(part.bytes.size());
  entry.ids = ids_.size();
  entry.count = static_cast<uint32_t>(value.count);
  entry.whole = value.whole ? 1 : 0;
  keys_.append(part.bytes);
  ids_.insert(ids_.end(), value.ids, value.ids + value.count);
  size_t slot = home(entry.hash);
  while (entries_[slot].hash != 0) slot = (slot + 1) & mask_;
  entries_[slot] = entry;
  ++size_;
}

}  // namespace fuse_index::words
