// The bulk kernel (Hopper only), in a library of its own: it is compiled for sm_90a alone.
#pragma once

#include "../kernels/args.h"
#include "common.h"

namespace fuse_index {

// Bytes of workspace that launch_bulk needs; `wide`: 128 words a block, not 64.
int64_t bulk_workspace(const PullBackArgs& args, DType dtype, const DeviceTraits& device, bool wide,
                       int split);

// Launches the pull-back of all words whose tube is at most 4; the others are left as they are.
cudaError_t launch_bulk(const PullBackArgs& args, DType dtype, const DeviceTraits& device,
                        bool wide, int split, void* workspace, cudaStream_t stream);

}  // namespace fuse_index
