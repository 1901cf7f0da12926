#include "amstf/cc/meeting/distinct_ids.h"

namespace amstf {

DistinctIds::DistinctIds(std::size_t most) {
  std::size_t slots = 2;
  for (; slots < 2 * most; slots *= 2) --shift_;
  slots_.resize(slots);
  ids_.reserve(most);
}

int32_t DistinctIds::Add(int64_t id) {
  // Fibonacci hashing: neighbouring ids, the usual case, fall far from each other.
  std::size_t slot = static_cast<uint64_t>(id) * 0x9E3779B97F4A7C15u >> shift_;
  for (; slots_[slot] != 0; slot = (slot + 1) & (slots_.size() - 1)) {
    if (ids_[slots_[slot] - 1] == id) return slots_[slot] - 1;
  }
  ids_.push_back(id);
  slots_[slot] = ids_.size();
  return slots_[slot] - 1;
}

}  // namespace amstf
