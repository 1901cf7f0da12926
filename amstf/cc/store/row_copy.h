// Copies one row of raw image features into float32.
#ifndef AMSTF_CC_STORE_ROW_COPY_H_
#define AMSTF_CC_STORE_ROW_COPY_H_

#include <cstdint>

namespace amstf {

// How the features lie in the file.
enum class FeatureType { kFloat32, kFloat16, kUint8 };

// Bytes of one feature.
inline int64_t FeatureBytes(FeatureType type) {
  return type == FeatureType::kFloat32 ? 4 : type == FeatureType::kFloat16 ? 2 : 1;
}

// What a row of uint8 stands for: offset + scale * q. Two floats in the file, in this order.
struct RowScale {
  float scale;
  float offset;
};

// Copies `width` features from `row` to `out` as float32. Returns false if one of them is not
// finite; the check costs little, because it reads what the copy has just brought into the cache.
//
// past_cache: write around the caches where the processor can. Right for results that are larger
// than the caches: memory that is written whole need not be read first, a third of the traffic.
// type: kFloat32 or kFloat16.
bool CopyRow(FeatureType type, const void* row, int64_t width, float* out, bool past_cache);

// The same for a row of uint8.
bool CopyScaledRow(const uint8_t* row, RowScale scale, int64_t width, float* out, bool past_cache);

}  // namespace amstf

#endif  // AMSTF_CC_STORE_ROW_COPY_H_
