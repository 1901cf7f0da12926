// Which workers are alive, and the synchronous rounds that they enter together.
#ifndef AMSTF_CC_ROUNDS_ROUND_TABLE_H_
#define AMSTF_CC_ROUNDS_ROUND_TABLE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "amstf/cc/meeting/timer.h"

namespace amstf {

struct RoundTableOptions {
  int32_t num_workers = 1;
  // After this time a round closes without those who did not enter it, and takes them for lost.
  double worker_timeout_ms = 10000;

  // InvalidArgument if a value makes no sense.
  absl::Status Validate() const;
};

// What one participant is told of a round.
struct RoundPlace {
  int64_t number = 0;  // From 0.
  int32_t num_participants = 0;
  bool leads = false;  // One per round: the participant with the lowest index.
};

// The rounds of one program. Thread-safe.
//
// A round closes when all live workers have entered it, or worker_timeout_ms after the first did.
// All workers are live at first; later those that entered the last round, or any since. Callbacks
// run on the thread that closes the round, outside of the lock; each is called exactly once.
class RoundTable : public std::enable_shared_from_this<RoundTable> {
 public:
  using Callback = std::function<void(const absl::StatusOr<RoundPlace>&)>;

  // Rounds closed, entries in them, rounds closed by the timeout, nanoseconds that entries waited,
  // workers live now, workers waiting now.
  static constexpr int kNumCounters = 6;

  // `options` must be valid. Shared, because the timer holds on to it weakly.
  static std::shared_ptr<RoundTable> Make(const RoundTableOptions& options);

  // Those who wait get Cancelled.
  ~RoundTable();

  const RoundTableOptions& options() const { return options_; }

  // Enters a worker into the next round; calls `done` when it closes, maybe before Enter returns.
  // An entry of this worker that still waits gets Cancelled: its step was given up and retried.
  // InvalidArgument (by `done`) if there is no such worker.
  // Returns a number for Cancel.
  int64_t Enter(int32_t worker, Callback done);

  // Takes an entry back, whose callback gets Cancelled; nothing if it no longer waits.
  void Cancel(int64_t entry);

  std::array<int64_t, kNumCounters> Counters() const;

 private:
  struct Waiting {
    int64_t entry;
    Timer::Clock::time_point since;
    Callback done;
  };
  using Calls = std::vector<std::function<void()>>;

  explicit RoundTable(const RoundTableOptions& options);
  // Those that begin with a capital letter and end in Locked need mutex_; they collect callbacks
  // for after it is released.
  void CloseLocked(bool by_timeout, Calls* calls);
  void ArmLocked();
  void OnTimer();

  const RoundTableOptions options_;
  const Timer::Clock::duration timeout_;
  mutable std::mutex mutex_;
  // All below by mutex_.
  std::set<int32_t> live_;
  std::map<int32_t, Waiting> waiting_;  // By worker.
  Timer::Clock::time_point closes_at_;  // Of the open round, if any worker waits.
  bool armed_ = false;                  // One call of the timer at most is to come.
  int64_t next_entry_ = 0;
  int64_t next_round_ = 0;
  int64_t entered_ = 0;
  int64_t shrunk_ = 0;
  int64_t wait_nanoseconds_ = 0;
};

}  // namespace amstf

#endif  // AMSTF_CC_ROUNDS_ROUND_TABLE_H_
