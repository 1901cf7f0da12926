// What a server remembers of its replica of E between two exchanges with the other servers.
#ifndef AMSTF_CC_ROUNDS_REPLICA_STATE_H_
#define AMSTF_CC_ROUNDS_REPLICA_STATE_H_

#include <cstdint>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace amstf {

// Counts the rounds of one replica and keeps its gradients until they are exchanged. Thread-safe.
class ReplicaState {
 public:
  // InvalidArgument if `sync_every` makes no sense.
  static absl::Status Validate(int64_t sync_every);

  // sync_every: rounds between two exchanges; must be valid.
  explicit ReplicaState(int64_t sync_every) : sync_every_(sync_every) {}

  int64_t sync_every() const { return sync_every_; }

  // Begins a round and says whether the caller refreshes the replica for it: the leaders of rounds
  // 0, sync_every, 2 * sync_every, ... do, those who do not lead never.
  bool BeginRound(bool is_leader);

  // Adds the gradients of a round. Every sync_every-th call takes the sums over the calls since the
  // last exchange with it, the others get no vectors.
  // InvalidArgument if the gradients are not as many, or as large, as those that were kept.
  absl::StatusOr<std::vector<std::vector<float>>> Accumulate(
      absl::Span<const absl::Span<const float>> gradients);

 private:
  const int64_t sync_every_;
  std::mutex mutex_;
  int64_t rounds_ = 0;                    // Rounds begun by leaders. By mutex_.
  int64_t kept_ = 0;                      // Calls whose gradients are in sums_. By mutex_.
  std::vector<std::vector<float>> sums_;  // By mutex_.
};

}  // namespace amstf

#endif  // AMSTF_CC_ROUNDS_REPLICA_STATE_H_
