// Hash functions of ids: which shard, which place in an index, what a row begins with.
#ifndef AMSTF_CC_TABLE_HASHING_H_
#define AMSTF_CC_TABLE_HASHING_H_

#include <cstdint>

namespace amstf {

// The finalizer of SplitMix64: every bit of the result depends on every bit of `value`.
inline uint64_t Mix(uint64_t value) {
  value += 0x9E3779B97F4A7C15ull;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9ull;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EBull;
  return value ^ (value >> 31);
}

// A number of [0, 1) with 24 bits, from the upper bits of a hash.
inline float Unit(uint64_t hash) { return static_cast<float>(hash >> 40) * 0x1p-24f; }

}  // namespace amstf

#endif  // AMSTF_CC_TABLE_HASHING_H_
