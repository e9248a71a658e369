#include <atomic>

#include "common.h"

namespace fuse_index {

cudaError_t device_traits(int device, DeviceTraits& traits) {
  constexpr int kMost = 64;
  static std::atomic<bool> known[kMost];
  static DeviceTraits cache[kMost];  // every writer writes the same values
  if (device >= 0 && device < kMost && known[device].load(std::memory_order_acquire)) {
    traits = cache[device];
    return cudaSuccess;
  }
  int major = 0;
  cudaError_t status =
      cudaDeviceGetAttribute(&traits.multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (status != cudaSuccess) return status;
  status =
      cudaDeviceGetAttribute(&traits.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (status != cudaSuccess) return status;
  status = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (status != cudaSuccess) return status;
  traits.clusters = major >= 9;
  traits.early = major >= 9;
  traits.hopper = major == 9;
  if (device >= 0 && device < kMost) {
    cache[device] = traits;
    known[device].store(true, std::memory_order_release);
  }
  return cudaSuccess;
}

}  // namespace fuse_index
