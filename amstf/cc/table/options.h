// What is chosen for a dynamic table, and how a row of it begins.
#ifndef AMSTF_CC_TABLE_OPTIONS_H_
#define AMSTF_CC_TABLE_OPTIONS_H_

#include <cstdint>

#include "absl/status/status.h"

namespace amstf {

enum class Initializer { kConstant, kUniform, kNormal };
// What happens to an id that wants a row when the table is at its limit.
enum class AtLimit { kRefuse, kLeastRecent, kLeastFrequent };

struct DynamicTableOptions {
  int64_t width = 0;  // Floats of a row (D).

  Initializer initializer = Initializer::kConstant;
  // Constant: the value is a. Uniform: in [a, b). Normal: mean a, standard deviation b.
  float a = 0;
  float b = 0;
  uint64_t seed = 0;

  // An id gets a row when it has been seen so often; 1 is at once.
  int64_t admit_after = 1;
  // Bytes of the counting Bloom filter that counts the ids without a row; unused if admit_after
  // is 1.
  int64_t filter_bytes = 0;
  // Then it is admitted with this probability for each sight.
  float admit_probability = 1;
  // Whether a lookup gives an id without a row its initial value, or zeros.
  bool initial_without_row = false;

  int64_t max_rows = 0;   // 0: no limit.
  int64_t max_bytes = 0;  // Of rows, index and filter; 0: no limit.
  AtLimit at_limit = AtLimit::kLeastRecent;

  // InvalidArgument if a value makes no sense.
  absl::Status Validate() const;

  // Writes what the row of an id begins with: a function of seed and id alone.
  void Initialize(int64_t id, float* row) const;
};

bool operator==(const DynamicTableOptions& one, const DynamicTableOptions& other);

}  // namespace amstf

#endif  // AMSTF_CC_TABLE_OPTIONS_H_
