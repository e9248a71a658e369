// How many tiles of words there can be, from what the host knows.
#pragma once

#include <cstdint>

namespace fuse_index {

// Most tiles that `words` words of at most `groups` groups can need.
inline int64_t most_tiles(int64_t words, int64_t groups, int64_t per_tile) {
  const int64_t used = groups < words ? groups : words;
  return used + (words - used) / per_tile;
}

}  // namespace fuse_index
