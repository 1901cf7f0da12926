#include "amstf/cc/table/counting_filter.h"

#include <algorithm>
#include <array>

#include "amstf/cc/table/hashing.h"

namespace amstf {
namespace {

constexpr int kNumHashes = 4;
constexpr uint64_t kSalt = 0xA0761D6478BD642Full;  // Apart from the other uses of an id's hash.

}  // namespace

uint32_t CountingFilter::Add(int64_t id, int64_t sights) {
  if (counters_.empty()) return 255;
  const uint64_t hash = Mix(static_cast<uint64_t>(id) ^ kSalt);
  const uint64_t step = Mix(hash) | 1;
  std::array<uint8_t*, kNumHashes> counters;
  uint8_t least = 255;
  for (int i = 0; i < kNumHashes; ++i) {
    // The upper half of a product with the size: evenly spread, without a division.
    const auto product = static_cast<unsigned __int128>(hash + i * step) * counters_.size();
    counters[i] = &counters_[static_cast<size_t>(product >> 64)];
    least = std::min(least, *counters[i]);
  }
  const auto count =
      static_cast<uint8_t>(std::min<int64_t>(255, least + std::max<int64_t>(0, sights)));
  for (uint8_t* counter : counters) {
    if (*counter >= count) continue;
    used_ += *counter == 0;
    *counter = count;
  }
  return count;
}

void CountingFilter::Merge(absl::Span<const uint8_t> counters) {
  used_ = 0;
  for (size_t i = 0; i < counters_.size(); ++i) {
    counters_[i] = std::max(counters_[i], counters[i]);
    used_ += counters_[i] != 0;
  }
}

}  // namespace amstf
