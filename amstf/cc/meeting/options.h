// The knobs and the counters of a meeting.
#ifndef AMSTF_CC_MEETING_OPTIONS_H_
#define AMSTF_CC_MEETING_OPTIONS_H_

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace amstf {

using MeetingClock = std::chrono::steady_clock;

// Which requests are answered together; see docs/design/ams.md.
enum class Merge { kNone, kAsync, kSync };

struct MeetingOptions {
  Merge merge = Merge::kNone;
  int num_workers = 1;
  double merge_wait_ms = 5;          // Only for kAsync.
  double worker_timeout_ms = 10000;  // A worker that gives no sign for so long is taken for lost.
  std::string name = "the meeting";  // For messages: which meeting, on which server.

  absl::Status Validate() const;
  MeetingClock::duration merge_wait() const;
  MeetingClock::duration worker_timeout() const;
};

// What a meeting counts, in the order of MEETING_COUNTER_NAMES (amstf/ops/meeting.py).
enum MeetingCounter {
  kRequests,                       // Joined.
  kIdsAsked,                       // Sum of n.
  kIdsDistinct,                    // Sum of U over rounds.
  kRounds,                         // Closed.
  kMerged,                         // Requests in rounds of more than one.
  kGone,                           // Requests that ended too soon for their round.
  kLate,                           // Gradients dropped: nobody was left to use them.
  kBytesIn,                        // Ids and gradients, as they cross the wire.
  kBytesOut,                       // Rows, as they cross the wire.
  kWaitNanoseconds,                // From join to close, summed over requests.
  kLeaderForwardNanoseconds,       // From close until the embeddings are shared.
  kLeaderBackwardWaitNanoseconds,  // From the leader's gradient until the sum is formed.
  kLeaderBackwardNanoseconds,      // From the sum until E's gradients are there.
  kOpenRequests,                   // A gauge: requests that have not ended.
  kNumMeetingCounters
};

// What a meeting, its rounds and its requests have in common. Thread-safe.
struct MeetingState {
  explicit MeetingState(const MeetingOptions& given) : options(given) {}

  void Count(MeetingCounter counter, int64_t amount) {
    counters[counter].fetch_add(amount, std::memory_order_relaxed);
  }
  void Count(MeetingCounter counter, MeetingClock::duration time) {
    Count(counter, std::chrono::duration_cast<std::chrono::nanoseconds>(time).count());
  }

  const MeetingOptions options;
  std::array<std::atomic<int64_t>, kNumMeetingCounters> counters = {};
};

}  // namespace amstf

#endif  // AMSTF_CC_MEETING_OPTIONS_H_
