// What the host knows of a batch before the device has found its words.
#pragma once

#include <cstdint>

#include "../kernels/args.h"

namespace fuse_index {

// Most tiles that `words` words of at most `groups` groups can need.
inline int64_t most_tiles(int64_t words, int64_t groups, int64_t per_tile) {
  const int64_t used = groups < words ? groups : words;
  return used + (words - used) / per_tile;
}

// Every group has a face, so this is the longest tube there can be.
inline int64_t longest_tube(const PullBackArgs& args) { return args.n_faces - (args.groups - 1); }

// 16-byte pieces of every row of elements of so many bytes are aligned.
inline bool is_aligned(const PullBackArgs& args, int64_t element) {
  const auto bits = reinterpret_cast<uintptr_t>(args.target_grad) |
                    reinterpret_cast<uintptr_t>(args.faces) |
                    static_cast<uintptr_t>(args.d_tgt * element);
  return bits % 16 == 0;
}

}  // namespace fuse_index
