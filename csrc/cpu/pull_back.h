// fuse_index::pull_back on the CPU for small batches, where reading the faces is the cost.
#pragma once

#include <cstdint>

namespace fuse_index::cpu {

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// Arguments of the operator, checked, with all values of the offsets in range; see
// fuse_index/ops/_api.py for the meaning of every tensor.
struct PullBackArgs {
  const void* target_grad;  // (target rows, d_tgt)
  const void* faces;        // (faces, d_src, d_tgt)
  float* out;               // (source rows, d_src), zeroed
  const int64_t* face_offsets;
  const int64_t* word_groups;
  const int64_t* source_offsets;
  const int64_t* target_offsets;
  int64_t words;
  int64_t groups;
  int64_t d_src;
  int64_t d_tgt;
};

void pull_back(const PullBackArgs& args, DType dtype, int threads);

}  // namespace fuse_index::cpu
