// fuse_index::pull_back on the CPU for small batches, where reading the faces is the cost.
#pragma once

#include <cstdint>

namespace fuse_index::cpu {

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// Words that share faces: gradient rows already folded, padded to the tube and packed as float32.
struct Group {
  const void* faces;      // (tube, d_src, d_tgt)
  const float* gradient;  // (tube, words, d_tgt)
  float* out;             // (positions, words, d_src); positions <= tube
  int64_t tube;
  int64_t words;
  int64_t positions;
};

struct Sizes {
  int64_t d_src;
  int64_t d_tgt;
};

// out[s] = sum over r < tube of gradient[r] @ faces[(r - s) mod tube]^T for every word and s.
void pull_back(const Group* groups, int64_t count, Sizes sizes, DType dtype, int threads);

}  // namespace fuse_index::cpu
