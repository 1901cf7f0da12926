// How often ids without a row were seen, in a stated number of bytes.
#ifndef AMSTF_CC_TABLE_COUNTING_FILTER_H_
#define AMSTF_CC_TABLE_COUNTING_FILTER_H_

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace amstf {

// A counting Bloom filter of 8-bit counters. What it says of an id is never less than the truth
// (up to 255), and more only if all of the id's counters are shared with others. Not thread-safe.
class CountingFilter {
 public:
  explicit CountingFilter(int64_t bytes) : counters_(bytes, 0) {}

  // Adds sights of an id; returns how often it has been seen, 255 for more. Only those of its
  // counters rise that are below the new count (conservative update, Estan and Varghese 2002).
  uint32_t Add(int64_t id, int64_t sights);

  int64_t bytes() const { return static_cast<int64_t>(counters_.size()); }
  // Counters that are not 0: the more, the more ids are taken for others.
  int64_t used() const { return used_; }

  absl::Span<const uint8_t> counters() const { return counters_; }
  // Takes the greater one of each counter and another filter's of the same size, so that no id has
  // a count below the greater one that it had in the two.
  void Merge(absl::Span<const uint8_t> counters);

 private:
  std::vector<uint8_t> counters_;
  int64_t used_ = 0;
};

}  // namespace amstf

#endif  // AMSTF_CC_TABLE_COUNTING_FILTER_H_
