#include "amstf/cc/table/options.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "amstf/cc/table/hashing.h"

namespace amstf {
namespace {

constexpr int64_t kMaxWidth = 1 << 16;
constexpr int64_t kMostSights = 255;  // A counter of the filter is a byte.

auto Tied(const DynamicTableOptions& o) {
  return std::tie(o.width, o.initializer, o.a, o.b, o.seed, o.admit_after, o.filter_bytes,
                  o.admit_probability, o.initial_without_row, o.max_rows, o.max_bytes, o.at_limit);
}

}  // namespace

absl::Status DynamicTableOptions::Validate() const {
  if (width < 1 || width > kMaxWidth) {
    return absl::InvalidArgumentError(
        absl::StrCat("width is ", width, "; wanted 1 to ", kMaxWidth));
  }
  if (!std::isfinite(a) || !std::isfinite(b) || (initializer == Initializer::kUniform && b < a) ||
      (initializer == Initializer::kNormal && b < 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the initializer has ", a, " and ", b,
                     "; wanted a lower and an upper bound, or a mean and a deviation"));
  }
  if (admit_after < 1 || admit_after > kMostSights) {
    return absl::InvalidArgumentError(
        absl::StrCat("admit_after is ", admit_after, "; wanted 1 to ", kMostSights, " sights"));
  }
  if (admit_after > 1 && filter_bytes < 1) {
    return absl::InvalidArgumentError(absl::StrCat("admit_after is ", admit_after,
                                                   ", which needs a filter, but filter_bytes is ",
                                                   filter_bytes));
  }
  if (!(admit_probability > 0 && admit_probability <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat("admit_probability is ", admit_probability,
                                                   "; wanted more than 0, at most 1"));
  }
  if (max_rows < 0 || max_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat("max_rows is ", max_rows, " and max_bytes ",
                                                   max_bytes, "; wanted 0 for no limit, or more"));
  }
  return absl::OkStatus();
}

void DynamicTableOptions::Initialize(int64_t id, float* row) const {
  if (initializer == Initializer::kConstant) {
    std::fill_n(row, width, a);
    return;
  }
  const uint64_t stream = Mix(Mix(seed) ^ static_cast<uint64_t>(id));
  for (int64_t i = 0; i < width; ++i) {
    const uint64_t draw = Mix(stream + i);
    if (initializer == Initializer::kUniform) {
      row[i] = a + (b - a) * Unit(draw);
    } else {
      // Box and Muller; 1 - u is never 0.
      const float radius = std::sqrt(-2 * std::log(1 - Unit(draw)));
      row[i] = a + b * radius * std::cos(6.2831853f * Unit(draw << 24));
    }
  }
}

bool operator==(const DynamicTableOptions& one, const DynamicTableOptions& other) {
  return Tied(one) == Tied(other);
}

}  // namespace amstf
