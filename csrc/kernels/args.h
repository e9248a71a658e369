// Arguments of the kernels: raw device pointers and 64-bit sizes. No torch, no pybind11.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fuse_index {

enum class DType : int { kFloat32 = 0, kBFloat16 = 1, kFloat16 = 2 };

// fuse_index::pull_back; see fuse_index/ops/_api.py for the meaning of every tensor.
struct PullBackArgs {
  const void* target_grad;  // (target_rows, d_tgt)
  const void* faces;        // (n_faces, d_src, d_tgt)
  void* out;                // (source_rows, d_src)
  const int64_t* face_offsets;
  const int64_t* word_groups;
  const int64_t* source_offsets;
  const int64_t* target_offsets;
  int64_t words;
  int64_t groups;
  int64_t n_faces;
  int64_t source_rows;
  int64_t target_rows;
  int64_t d_src;
  int64_t d_tgt;
  int tubes_done = 0;  // tubes up to this length are another launch's work
};

// fuse_index::t_product of contiguous a (batch, tube, n1, n2) and b (batch, tube, n2, n3).
struct TProductArgs {
  const void* a;
  const void* b;
  void* out;
  int64_t batch;
  int64_t tube;
  int64_t n1;
  int64_t n2;
  int64_t n3;
};

// Variants of the pull-back kernel; kAuto picks by the measured crossovers (docs/kernels.md).
enum class PullBackVariant : int {
  kAuto = 0,
  kFew = 1,
  kMany = 2,
  kThin = 3,
  kBulk64 = 4,
  kBulk128 = 5
};

// Bytes of device memory that launch_pull_back needs for its own use with the same arguments.
cudaError_t pull_back_workspace(const PullBackArgs& args, DType dtype, int device,
                                PullBackVariant variant, int split, int64_t& bytes);
cudaError_t launch_pull_back(const PullBackArgs& args, DType dtype, int device,
                             PullBackVariant variant, int split, void* workspace,
                             cudaStream_t stream);
cudaError_t launch_t_product(const TProductArgs& args, DType dtype, int device,
                             cudaStream_t stream);

// Most groups the tile search of pull_back holds in shared memory.
constexpr int64_t kMaxGroups = 1024;

}  // namespace fuse_index
