#include "amstf/cc/rounds/replica_state.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace amstf {

absl::Status ReplicaState::Validate(int64_t sync_every) {
  if (sync_every >= 1) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("sync_every must be a number of rounds >= 1, got ", sync_every));
}

bool ReplicaState::BeginRound(bool is_leader) {
  if (!is_leader) return false;
  std::lock_guard<std::mutex> lock(mutex_);
  return rounds_++ % sync_every_ == 0;
}

absl::StatusOr<std::vector<std::vector<float>>> ReplicaState::Accumulate(
    absl::Span<const absl::Span<const float>> gradients) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (kept_ == 0) {
    sums_.clear();
    for (const auto& gradient : gradients) sums_.emplace_back(gradient.begin(), gradient.end());
  } else {
    if (gradients.size() != sums_.size()) {
      return absl::InvalidArgumentError(absl::StrCat("got ", gradients.size(),
                                                     " gradients, wanted ", sums_.size(),
                                                     " as in the rounds before"));
    }
    for (size_t i = 0; i < sums_.size(); ++i) {
      if (gradients[i].size() == sums_[i].size()) continue;
      return absl::InvalidArgumentError(absl::StrCat("gradient ", i, " has ", gradients[i].size(),
                                                     " elements, wanted ", sums_[i].size(),
                                                     " as in the rounds before"));
    }
    for (size_t i = 0; i < sums_.size(); ++i) {
      float* sum = sums_[i].data();
      const float* gradient = gradients[i].data();
      for (size_t j = 0; j < sums_[i].size(); ++j) sum[j] += gradient[j];
    }
  }
  if (++kept_ < sync_every_) return std::vector<std::vector<float>>();
  kept_ = 0;
  return std::exchange(sums_, {});
}

}  // namespace amstf
