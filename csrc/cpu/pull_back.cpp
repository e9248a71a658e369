// Streams every face once and keeps it in registers while it meets all words of its group. Two
// cores read memory faster than they can be told to by ten small BLAS calls, and half-precision
// faces are widened on the way instead of being copied to float32 first.
#include "pull_back.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define FUSE_INDEX_AVX2 1
#endif

namespace fuse_index::cpu {
namespace {

float widen(float x) { return x; }

struct BFloat16 {
  uint16_t bits;
};
float widen(BFloat16 x) {
  const uint32_t wide = static_cast<uint32_t>(x.bits) << 16;
  float out;
  std::memcpy(&out, &wide, sizeof(out));
  return out;
}

struct Float16 {
  uint16_t bits;
};
float widen(Float16 x) {
  const uint32_t sign = static_cast<uint32_t>(x.bits & 0x8000u) << 16;
  const uint32_t exponent = (x.bits >> 10) & 0x1fu, mantissa = x.bits & 0x3ffu;
  uint32_t wide;
  if (exponent == 0x1f) {  // infinity and NaN
    wide = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    wide = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {  // zero and subnormal: mantissa * 2^-24 is exact
    const float small = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    std::memcpy(&wide, &small, sizeof(wide));
    wide |= sign;
  }
  float out;
  std::memcpy(&out, &wide, sizeof(out));
  return out;
}

// sums[i][j] = dot(faces row i, gradient row j) for `rows` rows and `columns` gradient rows.
constexpr int kRows = 3;
constexpr int kColumns = 4;

template <class T>
void dot_plain(const T* const (&face)[kRows], const float* const (&gradient)[kColumns],
               int64_t width, float (&sums)[kRows][kColumns]) {
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      float sum = 0;
      for (int64_t x = 0; x < width; ++x) sum += widen(face[i][x]) * gradient[j][x];
      sums[i][j] = sum;
    }
  }
}

#ifdef FUSE_INDEX_AVX2
#define FUSE_INDEX_TARGET __attribute__((target("avx2,fma,f16c")))

FUSE_INDEX_TARGET inline __m256 load8(const float* p) { return _mm256_loadu_ps(p); }
FUSE_INDEX_TARGET inline __m256 load8(const BFloat16* p) {
  const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half), 16));
}
FUSE_INDEX_TARGET inline __m256 load8(const Float16* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

FUSE_INDEX_TARGET inline float add_up(__m256 x) {
  __m128 sum = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
  return _mm_cvtss_f32(_mm_add_ss(sum, _mm_shuffle_ps(sum, sum, 1)));
}

template <class T>
FUSE_INDEX_TARGET void dot_avx2(const T* const (&face)[kRows],
                                const float* const (&gradient)[kColumns], int64_t width,
                                float (&sums)[kRows][kColumns]) {
  __m256 wide[kRows][kColumns];
  for (auto& row : wide) {
    for (auto& value : row) value = _mm256_setzero_ps();
  }
  int64_t x = 0;
  for (; x + 8 <= width; x += 8) {
    __m256 g[kColumns];
    for (int j = 0; j < kColumns; ++j) g[j] = _mm256_loadu_ps(gradient[j] + x);
    for (int i = 0; i < kRows; ++i) {
      const __m256 f = load8(face[i] + x);
      for (int j = 0; j < kColumns; ++j) wide[i][j] = _mm256_fmadd_ps(f, g[j], wide[i][j]);
    }
  }
  for (int i = 0; i < kRows; ++i) {
    for (int j = 0; j < kColumns; ++j) {
      float sum = add_up(wide[i][j]);
      for (int64_t rest = x; rest < width; ++rest) sum += widen(face[i][rest]) * gradient[j][rest];
      sums[i][j] = sum;
    }
  }
}
#endif

template <class T>
void dot(const T* const (&face)[kRows], const float* const (&gradient)[kColumns], int64_t width,
         float (&sums)[kRows][kColumns]) {
#ifdef FUSE_INDEX_AVX2
  static const bool fast = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                           __builtin_cpu_supports("f16c");
  if (fast) return dot_avx2(face, gradient, width, sums);
#endif
  dot_plain(face, gradient, width, sums);
}

// Source rows [from, to) of one group; out is zeroed. Rows past the end repeat the last one.
template <class T>
void run_rows(const Group& group, Sizes sizes, int64_t from, int64_t to) {
  const T* faces = static_cast<const T*>(group.faces);
  const int64_t items = group.positions * group.words;
  for (int64_t row = from; row < to; row += kRows) {
    for (int64_t j = 0; j < group.tube; ++j) {
      const T* face[kRows];
      for (int i = 0; i < kRows; ++i) {
        face[i] = faces + (j * sizes.d_src + std::min(row + i, to - 1)) * sizes.d_tgt;
      }
      for (int64_t first = 0; first < items; first += kColumns) {
        const float* gradient[kColumns];
        float* out[kColumns];
        for (int c = 0; c < kColumns; ++c) {
          const int64_t item = std::min(first + c, items - 1);
          const int64_t s = item / group.words, word = item % group.words;
          const int64_t t = (s + j) % group.tube;
          gradient[c] = group.gradient + (t * group.words + word) * sizes.d_tgt;
          out[c] = group.out + item * sizes.d_src + row;
        }
        float sums[kRows][kColumns];
        dot<T>(face, gradient, sizes.d_tgt, sums);
        for (int c = 0; c < kColumns && first + c < items; ++c) {
          for (int i = 0; i < kRows && row + i < to; ++i) out[c][i] += sums[i][c];
        }
      }
    }
  }
}

constexpr int64_t kBlock = 48;  // source rows, a multiple of kRows of one piece of work

}  // namespace

void pull_back(const Group* groups, int64_t count, Sizes sizes, DType dtype, int threads) {
  const int64_t blocks = (sizes.d_src + kBlock - 1) / kBlock;
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t piece; (piece = next.fetch_add(1)) < count * blocks;) {
      const Group& group = groups[piece / blocks];
      const int64_t from = piece % blocks * kBlock;
      const int64_t to = std::min(from + kBlock, sizes.d_src);
      switch (dtype) {
        case DType::kFloat32:
          run_rows<float>(group, sizes, from, to);
          break;
        case DType::kBFloat16:
          run_rows<BFloat16>(group, sizes, from, to);
          break;
        case DType::kFloat16:
          run_rows<Float16>(group, sizes, from, to);
          break;
      }
    }
  };
  std::vector<std::thread> helpers;
  const int64_t useful = std::min<int64_t>(threads, count * blocks);
  for (int64_t i = 1; i < useful; ++i) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
}

}  // namespace fuse_index::cpu
