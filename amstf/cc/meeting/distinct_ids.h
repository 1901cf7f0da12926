// Distinct ids and where each of them stands.
#ifndef AMSTF_CC_MEETING_DISTINCT_IDS_H_
#define AMSTF_CC_MEETING_DISTINCT_IDS_H_

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace amstf {

// Collects distinct ids in the order of their first appearance. Not thread-safe.
//
// Every request passes through it, merged or not, so it is one flat table of positions instead of a
// general map.
class DistinctIds {
 public:
  // most: number of calls of Add that are to come, at most.
  explicit DistinctIds(std::size_t most);

  // Position of the id among the distinct ones, from 0.
  int32_t Add(int64_t id);

  // The distinct ids; none are left here.
  std::vector<int64_t> Take() { return std::move(ids_); }

 private:
  std::vector<int64_t> ids_;
  std::vector<int32_t> slots_;  // Position + 1 in ids_; 0: free. At most half of them are taken.
  int shift_ = 63;              // 64 - log2 of the number of slots.
};

}  // namespace amstf

#endif  // AMSTF_CC_MEETING_DISTINCT_IDS_H_
