// Which products make up a t-product in the transform domain.
#pragma once

namespace fuse_index {

// Chain i adds the product of component left(i) of the faces and right(i) of the gradient to
// component into(i) of the result. Components are in the order of spectrum.cuh; the complex
// product conj(F) g is Re: F_re g_re + F_im g_im and Im: F_re g_im - F_im g_re.
template <int K>
struct Chains {
  static constexpr int kReal = K <= 2 ? K : K - 2;
  static constexpr int kCount = K <= 2 ? K : kReal + 4;
  static constexpr int kRe = K - 2, kIm = K - 1;
  // Complex chains: Re Re, Re Im -> Im, Im Im -> Re, Im Re -> Im.
  static __host__ __device__ constexpr int left(int i) {
    return i < kReal ? i : (i < kReal + 2 ? kRe : kIm);
  }
  static __host__ __device__ constexpr int right(int i) {
    return i < kReal ? i : (i == kReal || i == kReal + 3 ? kRe : kIm);
  }
  static __host__ __device__ constexpr int into(int i) {
    return i < kReal ? i : kReal + (i - kReal) % 2;
  }
  static __host__ __device__ constexpr bool negative(int i) { return i >= kReal && i == kReal + 3; }
  // The first chain of its component of the result.
  static __host__ __device__ constexpr bool first(int i) { return i < kReal + 2; }
};

// The definition, four positions at a time: one face meets four rows.
template <>
struct Chains<0> {
  static constexpr int kCount = 4;
  static __host__ __device__ constexpr int left(int) { return 0; }
  static __host__ __device__ constexpr int right(int i) { return i; }
  static __host__ __device__ constexpr int into(int i) { return i; }
  static __host__ __device__ constexpr bool negative(int) { return false; }
};

}  // namespace fuse_index
