// Matrix instructions and asynchronous copies (sm_80 and newer).
#pragma once

#include "units.cuh"

namespace fuse_index {

// d += a (16 x K) * b (K x 8), K = 8 for TF32 and 16 for half precision; float accumulators.
template <class T>
__device__ __forceinline__ void mma(float (&d)[4], const Unit (&a)[4], Unit b0, Unit b1);

template <>
__device__ __forceinline__ void mma<float>(float (&d)[4], const Unit (&a)[4], Unit b0, Unit b1) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(float (&d)[4], const Unit (&a)[4], Unit b0,
                                                   Unit b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void mma<__half>(float (&d)[4], const Unit (&a)[4], Unit b0, Unit b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
      "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// x = high + low with high a TF32 number (rounded to nearest) and low the exact rest, of which the
// matrix unit reads the leading 11 bits: together 22 bits of the 24.
__device__ __forceinline__ void split_tf32(Unit x, Unit& high, Unit& low) {
  high = (x + 0x1000u) & 0xffffe000u;
  low = __float_as_uint(__uint_as_float(x) - __uint_as_float(high));
}

// The matrix unit reads the leading 11 bits of a number; this is the exact rest.
__device__ __forceinline__ Unit rest_of_tf32(Unit x) {
  return __float_as_uint(__uint_as_float(x) - __uint_as_float(x & 0xffffe000u));
}

// Copy 16 bytes to shared memory, or zeros where `bytes` is 0.
__device__ __forceinline__ void copy_async(Granule* to, const void* from, int bytes) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
               "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int kPending>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace fuse_index
