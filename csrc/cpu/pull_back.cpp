// Streams every face once and keeps it in registers while it meets all words of its group. Two
// cores read memory faster than they can be told to by ten small BLAS calls, and half-precision
// faces are widened on the way instead of being copied to float32 first.
#include "pull_back.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <utility>
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

// Words that share faces.
struct Group {
  const void* faces;  // (tube, d_src, d_tgt)
  int64_t tube;
  int64_t positions;            // of the source side, at most the tube
  std::vector<int64_t> words;   // with tokens on both sides
  std::vector<float> gradient;  // (tube, words, d_tgt): rows folded modulo the tube
  std::vector<float> out;       // (positions, words, d_src)
};

struct Sizes {
  int64_t d_src;
  int64_t d_tgt;
};

// The groups that have words, with their gradient rows.
template <class T>
std::vector<Group> gather(const PullBackArgs& args) {
  std::vector<std::vector<int64_t>> members(static_cast<size_t>(args.groups));
  for (int64_t w = 0; w < args.words; ++w) {
    if (args.source_offsets[w + 1] > args.source_offsets[w] &&
        args.target_offsets[w + 1] > args.target_offsets[w]) {
      members[static_cast<size_t>(args.word_groups[w])].push_back(w);
    }
  }
  const int64_t face = args.d_src * args.d_tgt;
  std::vector<Group> groups;
  for (int64_t g = 0; g < args.groups; ++g) {
    auto& words = members[static_cast<size_t>(g)];
    if (words.empty()) continue;
    const int64_t first = args.face_offsets[g], tube = args.face_offsets[g + 1] - first;
    const int64_t count = static_cast<int64_t>(words.size());
    int64_t longest = 0;
    std::vector<float> gradient(static_cast<size_t>(tube * count * args.d_tgt));
    for (int64_t i = 0; i < count; ++i) {
      const int64_t w = words[static_cast<size_t>(i)], row = args.target_offsets[w];
      longest = std::max(longest, args.source_offsets[w + 1] - args.source_offsets[w]);
      for (int64_t t = 0; t < args.target_offsets[w + 1] - row; ++t) {
        const T* from = static_cast<const T*>(args.target_grad) + (row + t) * args.d_tgt;
        float* to = gradient.data() + (t % tube * count + i) * args.d_tgt;
        for (int64_t x = 0; x < args.d_tgt; ++x) to[x] += widen(from[x]);
      }
    }
    const int64_t positions = std::min(longest, tube);
    std::vector<float> out(static_cast<size_t>(positions * count * args.d_src));
    groups.push_back({static_cast<const T*>(args.faces) + first * face, tube, positions,
                      std::move(words), std::move(gradient), std::move(out)});
  }
  return groups;
}

// Source tokens past the tube repeat.
void scatter(const PullBackArgs& args, const Group& group) {
  const int64_t count = static_cast<int64_t>(group.words.size());
  for (int64_t i = 0; i < count; ++i) {
    const int64_t w = group.words[static_cast<size_t>(i)], row = args.source_offsets[w];
    for (int64_t s = 0; s < args.source_offsets[w + 1] - row; ++s) {
      const float* from = group.out.data() + (s % group.tube * count + i) * args.d_src;
      std::copy(from, from + args.d_src, args.out + (row + s) * args.d_src);
    }
  }
}

// Source rows [from, to) of one group; out is zeroed. Rows past the end repeat the last one.
template <class T>
void run_rows(Group& group, Sizes sizes, int64_t from, int64_t to) {
  const T* faces = static_cast<const T*>(group.faces);
  const int64_t words = static_cast<int64_t>(group.words.size());
  const int64_t items = group.positions * words;
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
          const int64_t s = item / words, word = item % words;
          const int64_t t = (s + j) % group.tube;
          gradient[c] = group.gradient.data() + (t * words + word) * sizes.d_tgt;
          out[c] = group.out.data() + item * sizes.d_src + row;
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

template <class T>
void run(const PullBackArgs& args, int threads) {
  std::vector<Group> groups = gather<T>(args);
  const Sizes sizes{args.d_src, args.d_tgt};
  const int64_t blocks = (sizes.d_src + kBlock - 1) / kBlock;
  const int64_t pieces = static_cast<int64_t>(groups.size()) * blocks;
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    for (int64_t piece; (piece = next.fetch_add(1)) < pieces;) {
      const int64_t from = piece % blocks * kBlock;
      run_rows<T>(groups[static_cast<size_t>(piece / blocks)], sizes, from,
                  std::min(from + kBlock, sizes.d_src));
    }
  };
  std::vector<std::thread> helpers;
  const int64_t useful = std::min<int64_t>(threads, pieces);
  for (int64_t i = 1; i < useful; ++i) helpers.emplace_back(work);
  work();
  for (auto& helper : helpers) helper.join();
  for (const auto& group : groups) scatter(args, group);
}

}  // namespace

void pull_back(const PullBackArgs& args, DType dtype, int threads) {
  switch (dtype) {
    case DType::kFloat32:
      return run<float>(args, threads);
    case DType::kBFloat16:
      return run<BFloat16>(args, threads);
    case DType::kFloat16:
      return run<Float16>(args, threads);
  }
}

}  // namespace fuse_index::cpu
