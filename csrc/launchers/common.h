// Shared by the launchers.
#pragma once

#include <cuda_runtime_api.h>

namespace fuse_index {

// Makes `device` current for one scope; launchers never rely on the caller's current device.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device) {
    status_ = cudaGetDevice(&before_);
    if (status_ == cudaSuccess && before_ != device) {
      status_ = cudaSetDevice(device);
      changed_ = status_ == cudaSuccess;
    }
  }
  ~DeviceGuard() {
    if (changed_) cudaSetDevice(before_);
  }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  cudaError_t status() const { return status_; }

 private:
  int before_ = 0;
  bool changed_ = false;
  cudaError_t status_ = cudaSuccess;
};

// What the launchers need to know about a device, read once.
struct DeviceTraits {
  int multiprocessors = 0;
  int shared_bytes = 0;  // most a block may ask for
  bool clusters = false;
  bool hopper = false;  // runs sm_90a
};

cudaError_t device_traits(int device, DeviceTraits& traits);

}  // namespace fuse_index
