#include "amstf/cc/store/row_copy.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
// One binary for all machines: the compiler makes a version of the function for each instruction
// set and the loader takes the best that the processor has.
#define AMSTF_VECTOR_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define AMSTF_VECTOR_CLONES
#endif

namespace amstf {
namespace {

// Block of floats that is copied and then checked while it is still in the first-level cache.
constexpr int64_t kBlock = 1024;

AMSTF_VECTOR_CLONES bool AllFinite(const float* values, int64_t count) {
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

#if defined(__x86_64__)
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

using HalfConverter = void (*)(const uint16_t*, int64_t, float*);

HalfConverter BestHalfConverter() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx") && __builtin_cpu_supports("f16c")) return HalvesToFloatsF16c;
#endif
  return HalvesToFloats;
}

}  // namespace

bool CopyRow(FeatureType type, const void* row, int64_t width, float* out) {
  static const HalfConverter convert_halves = BestHalfConverter();
  bool finite = true;
  for (int64_t begin = 0; begin < width; begin += kBlock) {
    const int64_t count = width - begin < kBlock ? width - begin : kBlock;
    if (type == FeatureType::kFloat32) {
      std::memcpy(out + begin, static_cast<const float*>(row) + begin, count * sizeof(float));
    } else {
      convert_halves(static_cast<const uint16_t*>(row) + begin, count, out + begin);
    }
    finite &= AllFinite(out + begin, count);
  }
  return finite;
}

}  // namespace amstf
