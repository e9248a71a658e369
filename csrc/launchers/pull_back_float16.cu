#include "pull_back.cuh"

namespace fuse_index {

template cudaError_t choose<__half>(const PullBackArgs&, const DeviceTraits&, PullBackVariant, int,
                                    cudaStream_t);

}  // namespace fuse_index
