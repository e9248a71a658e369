// What only Hopper has (sm_90a): transaction barriers, the bulk copy engine, warpgroup products.
#pragma once

#include <cuda.h>

#include "units.cuh"

namespace fuse_index::hopper {

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// --- barriers in shared memory that count arrivals and bytes ---

__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals)
               : "memory");
}

// One arrival, and `bytes` more that copies will deliver.
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, int bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

__device__ __forceinline__ void barrier_wait(uint64_t* barrier, int parity) {
  uint32_t done = 0;
  while (!done) {
    asm volatile(
        "{\n .reg .pred p;\n"
        " mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
        " selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  }
}

// Orders ordinary writes to shared memory before what the copy engine does to it.
__device__ __forceinline__ void fence_async() {
  asm volatile("fence.mbarrier_init.release.cluster;\n fence.proxy.async.shared::cta;" ::
                   : "memory");
}

// A barrier of `threads` threads of the block; 0 is that of __syncthreads.
__device__ __forceinline__ void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// Four matrices of 8 x 8 elements of two bytes, in registers like the sums of a product (lane l has
// elements 2 (l % 4) and the next of row l / 4), are stored transposed: lane l says where column
// l % 8 of matrix l / 8 begins.
__device__ __forceinline__ void store_matrices(void* to, const Unit (&x)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                   shared_address(to)),
               "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3])
               : "memory");
}

// --- copies ---

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// A box of the tensor.
__device__ __forceinline__ void copy_box(void* to, const CUtensorMap* map, uint64_t* barrier, int x,
                                         int y, int z) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(x), "r"(y), "r"(z)
      : "memory");
}

__device__ __forceinline__ void copy_bytes(void* to, const void* from, int bytes,
                                           uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

// --- launches that overlap (programmatic dependent launch) ---

__device__ __forceinline__ void let_dependents_start() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

__device__ __forceinline__ void wait_for_earlier() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// --- registers of a warpgroup ---

template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// --- products: d (64 x N) += a (64 x K, registers) * b (K x N, shared memory) ---

__device__ __forceinline__ void products_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int kPending>
__device__ __forceinline__ void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// The compiler must not read a sum before the wait.
__device__ __forceinline__ void settle(float& sum) { asm volatile("" : "+f"(sum)::"memory"); }

// Describes b without swizzle: 8 rows (words) of 16 bytes follow each other, groups of 8 rows
// follow each other, and the second 16 bytes of every row come `half` bytes later.
__device__ __forceinline__ uint64_t describe(const void* b, int half) {
  constexpr uint64_t kRowGroup = 8 * 16;
  return static_cast<uint64_t>((shared_address(b) & 0x3ffffu) >> 4) |
         static_cast<uint64_t>(half >> 4) << 16 | (kRowGroup >> 4) << 32;
}

#define FUSE_INDEX_D8(d, i)                                                                   \
  "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
      "+f"(d[i + 6]), "+f"(d[i + 7])
#define FUSE_INDEX_D16(d) FUSE_INDEX_D8(d, 0), FUSE_INDEX_D8(d, 8)
#define FUSE_INDEX_D32(d) FUSE_INDEX_D16(d), FUSE_INDEX_D8(d, 16), FUSE_INDEX_D8(d, 24)
#define FUSE_INDEX_LIST16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define FUSE_INDEX_LIST32 \
  FUSE_INDEX_LIST16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"

// kSign -1 subtracts the product; keep 0 overwrites d.
template <class T, int kSign, int kCount>
__device__ __forceinline__ void multiply(float (&d)[kCount], Unit a0, Unit a1, Unit a2, Unit a3,
                                         uint64_t b, int keep) {
  static_assert(kCount == 16 || kCount == 32, "32 or 64 words");
#define FUSE_INDEX_WGMMA_16(SHAPE, TAIL)                            \
  asm volatile(                                                     \
      "{\n .reg .pred p;\n setp.ne.b32 p, %21, 0;\n"                \
      " wgmma.mma_async.sync.aligned." SHAPE " {" FUSE_INDEX_LIST16 \
      "}, {%16,%17,%18,%19}, %20, p, %22, 1" TAIL ";\n}"            \
      : FUSE_INDEX_D16(d)                                           \
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(keep), "n"(kSign))
#define FUSE_INDEX_WGMMA_32(SHAPE, TAIL)                            \
  asm volatile(                                                     \
      "{\n .reg .pred p;\n setp.ne.b32 p, %37, 0;\n"                \
      " wgmma.mma_async.sync.aligned." SHAPE " {" FUSE_INDEX_LIST32 \
      "}, {%32,%33,%34,%35}, %36, p, %38, 1" TAIL ";\n}"            \
      : FUSE_INDEX_D32(d)                                           \
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b), "r"(keep), "n"(kSign))
  if constexpr (sizeof(T) == 4) {
    if constexpr (kCount == 16) {
      FUSE_INDEX_WGMMA_16("m64n32k8.f32.tf32.tf32", "");
    } else {
      FUSE_INDEX_WGMMA_32("m64n64k8.f32.tf32.tf32", "");
    }
  } else if constexpr (Units<T>::kBrain) {
    if constexpr (kCount == 16) {
      FUSE_INDEX_WGMMA_16("m64n32k16.f32.bf16.bf16", ", 0");
    } else {
      FUSE_INDEX_WGMMA_32("m64n64k16.f32.bf16.bf16", ", 0");
    }
  } else {
    if constexpr (kCount == 16) {
      FUSE_INDEX_WGMMA_16("m64n32k16.f32.f16.f16", ", 0");
    } else {
      FUSE_INDEX_WGMMA_32("m64n64k16.f32.f16.f16", ", 0");
    }
  }
#undef FUSE_INDEX_WGMMA_16
#undef FUSE_INDEX_WGMMA_32
}

#undef FUSE_INDEX_D8
#undef FUSE_INDEX_D16
#undef FUSE_INDEX_D32
#undef FUSE_INDEX_LIST16
#undef FUSE_INDEX_LIST32

}  // namespace fuse_index::hopper
