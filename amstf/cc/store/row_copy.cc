#include "amstf/cc/store/row_copy.h"

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
#endif

struct RowFunctions {
  bool (*all_finite)(const float*, int64_t) = AllFinitePlain;
  void (*halves_to_floats)(const uint16_t*, int64_t, float*) = HalvesToFloats;
};

RowFunctions BestRowFunctions() {
  RowFunctions best;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) best.all_finite = AllFiniteAvx2;
  if (__builtin_cpu_supports("avx512f")) best.all_finite = AllFiniteAvx512;
  if (__builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c")) {
    best.halves_to_floats = HalvesToFloatsF16c;
  }
#endif
  return best;
}

}  // namespace

bool CopyRow(FeatureType type, const void* row, int64_t width, float* out) {
  static const RowFunctions best = BestRowFunctions();
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
