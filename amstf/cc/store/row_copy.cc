#include "amstf/cc/store/row_copy.h"

#include <cmath>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace amstf {
namespace {

// Block of floats that is copied and then checked while it is still in the first-level cache.
constexpr int64_t kBlock = 1024;

inline __attribute__((always_inline)) bool AllFinite(const float* values, int64_t count) {
  constexpr uint32_t kExponent = 0x7f800000u;
  uint32_t bad = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, values + i, sizeof(bits));
    bad |= static_cast<uint32_t>((bits & kExponent) == kExponent);
  }
  return bad == 0;
}

float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000u) << 16;
  const uint32_t exponent = (half >> 10) & 0x1fu;
  const uint32_t mantissa = half & 0x3ffu;
  uint32_t bits;
  if (exponent == 0x1fu) {
    bits = sign | 0x7f800000u | (mantissa << 13);
  } else if (exponent != 0) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    const float subnormal = static_cast<float>(mantissa) * 0x1p-24f;
    std::memcpy(&bits, &subnormal, sizeof(bits));
    bits |= sign;
  }
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

void HalvesToFloats(const uint16_t* halves, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = HalfToFloat(halves[i]);
}

void BytesToFloats(const uint8_t* bytes, RowScale scale, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = bytes[i] * scale.scale + scale.offset;
}

bool AllFinitePlain(const float* values, int64_t count) { return AllFinite(values, count); }

#if defined(__x86_64__)
// One binary serves all machines: what the processor has is asked when the first row is copied.
// (The compiler's own way, target_clones, asks before the thread sanitizer is ready and crashes
// there.)
__attribute__((target("avx2"))) bool AllFiniteAvx2(const float* values, int64_t count) {
  return AllFinite(values, count);
}

__attribute__((target("avx512f"))) bool AllFiniteAvx512(const float* values, int64_t count) {
  return AllFinite(values, count);
}

__attribute__((target("avx,f16c"))) void HalvesToFloatsF16c(const uint16_t* halves, int64_t count,
                                                            float* out) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + i));
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(packed));
  }
  HalvesToFloats(halves + i, count - i, out + i);
}

// Multiplies, then adds, as the plain code does, so that all processors give the same bits.
template <bool past_cache>
__attribute__((target("avx2"))) void BytesToFloatsAvx2(const uint8_t* bytes, RowScale scale,
                                                       int64_t count, float* out) {
  const __m256 scales = _mm256_set1_ps(scale.scale);
  const __m256 offsets = _mm256_set1_ps(scale.offset);
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i packed = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes + i));
    const __m256 quantised = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(packed));
    const __m256 values = _mm256_add_ps(_mm256_mul_ps(quantised, scales), offsets);
    if (past_cache) {
      _mm256_stream_ps(out + i, values);
    } else {
      _mm256_storeu_ps(out + i, values);
    }
  }
  BytesToFloats(bytes + i, scale, count - i, out + i);
  if (past_cache) _mm_sfence();
}

// Eight values of a row as float bits.
__attribute__((target("avx2"), always_inline)) inline __m256i LoadEight(const float* values) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
}
__attribute__((target("avx2,f16c"), always_inline)) inline __m256i LoadEight(
    const uint16_t* halves) {
  const __m128i packed = _mm_loadu_si128(reinterpret_cast<const __m128i*>(halves));
  return _mm256_castps_si256(_mm256_cvtph_ps(packed));
}

// Copies and checks `count` values, a multiple of 8, around the caches. `out` must be aligned
// to 32.
template <typename T>
__attribute__((target("avx2,f16c"))) bool Stream(const T* values, int64_t count, float* out) {
  const __m256i exponent = _mm256_set1_epi32(0x7f800000);
  __m256i bad = _mm256_setzero_si256();
  for (int64_t i = 0; i < count; i += 8) {
    const __m256i bits = LoadEight(values + i);
    bad = _mm256_or_si256(bad, _mm256_cmpeq_epi32(_mm256_and_si256(bits, exponent), exponent));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(out + i), bits);
  }
  _mm_sfence();  // Such writes are not ordered with others: another thread may read the row next.
  return _mm256_testz_si256(bad, bad) != 0;
}
#endif

struct RowFunctions {
  bool (*all_finite)(const float*, int64_t) = AllFinitePlain;
  void (*halves_to_floats)(const uint16_t*, int64_t, float*) = HalvesToFloats;
  bool (*stream_floats)(const float*, int64_t, float*) = nullptr;
  bool (*stream_halves)(const uint16_t*, int64_t, float*) = nullptr;
  void (*bytes_to_floats)(const uint8_t*, RowScale, int64_t, float*) = BytesToFloats;
  void (*stream_bytes)(const uint8_t*, RowScale, int64_t, float*) = nullptr;
};

RowFunctions BestRowFunctions() {
  RowFunctions best;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) {
    best.all_finite = AllFiniteAvx2;
    best.bytes_to_floats = BytesToFloatsAvx2<false>;
    best.stream_bytes = BytesToFloatsAvx2<true>;
  }
  if (__builtin_cpu_supports("avx512f")) best.all_finite = AllFiniteAvx512;
  if (__builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c")) {
    best.halves_to_floats = HalvesToFloatsF16c;
    if (__builtin_cpu_supports("avx2")) {
      best.stream_floats = Stream<float>;
      best.stream_halves = Stream<uint16_t>;
    }
  }
#endif
  return best;
}

const RowFunctions& Best() {
  static const RowFunctions best = BestRowFunctions();
  return best;
}

// Whether a row can be written in whole vectors around the caches.
bool CanStream(int64_t width, const float* out) {
  return width % 8 == 0 && reinterpret_cast<uintptr_t>(out) % 32 == 0;
}

}  // namespace

bool CopyScaledRow(const uint8_t* row, RowScale scale, int64_t width, float* out, bool past_cache) {
  const RowFunctions& best = Best();
  // Every value lies between those of 0 and 255: no other one needs to be looked at.
  const bool finite = std::isfinite(scale.scale) && std::isfinite(scale.offset) &&
                      std::isfinite(255.0f * scale.scale + scale.offset);
  const bool stream = past_cache && best.stream_bytes != nullptr && CanStream(width, out);
  (stream ? best.stream_bytes : best.bytes_to_floats)(row, scale, width, out);
  return finite;
}

bool CopyRow(FeatureType type, const void* row, int64_t width, float* out, bool past_cache) {
  const RowFunctions& best = Best();
  if (past_cache && best.stream_floats != nullptr && CanStream(width, out)) {
    return type == FeatureType::kFloat32
               ? best.stream_floats(static_cast<const float*>(row), width, out)
               : best.stream_halves(static_cast<const uint16_t*>(row), width, out);
  }
  bool finite = true;
  for (int64_t begin = 0; begin < width; begin += kBlock) {
    const int64_t count = width - begin < kBlock ? width - begin : kBlock;
    if (type == FeatureType::kFloat32) {
      std::memcpy(out + begin, static_cast<const float*>(row) + begin, count * sizeof(float));
    } else {
      best.halves_to_floats(static_cast<const uint16_t*>(row) + begin, count, out + begin);
    }
    finite &= best.all_finite(out + begin, count);
  }
  return finite;
}

}  // namespace amstf
