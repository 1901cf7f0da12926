// Where the gradients of one variable meet in a synchronous round, and their mean.
#ifndef AMSTF_CC_ROUNDS_GRADIENT_MEAN_H_
#define AMSTF_CC_ROUNDS_GRADIENT_MEAN_H_

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "amstf/cc/meeting/timer.h"
#include "amstf/cc/rounds/round_table.h"

namespace amstf {

// The gradient that one worker hands in. Not copied until the mean is formed.
struct GradientPart {
  int32_t worker = 0;
  bool is_sparse = false;
  std::vector<int64_t> shape;         // Of the gradient; of one row if it is sparse.
  absl::Span<const float> values;     // All elements, row by row.
  std::vector<int64_t> rows;          // Which row each row of values is for, if it is sparse.
  std::shared_ptr<const void> owner;  // Keeps the values alive.
};

using GradientParts = std::vector<GradientPart>;

// Gathers the gradients of one variable, round by round. Thread-safe.
//
// Only the leader of a round waits: until all participants have handed in, or worker_timeout_ms.
// A round whose leader does not come within worker_timeout_ms of the first gradient is dropped, as
// are those that are older than one that ended: the numbers of rounds only grow. Callbacks run
// outside of the lock; each is called exactly once.
class GradientMean : public std::enable_shared_from_this<GradientMean> {
 public:
  // Gets the parts whose mean the caller is to apply, in the order of the workers; none for those
  // who do not lead and for a leader who came too late.
  using Callback = std::function<void(absl::StatusOr<GradientParts>)>;

  // Means formed, gradients in them, means that lack some, rounds dropped, gradients that came too
  // late, nanoseconds that leaders waited, rounds open now.
  static constexpr int kNumCounters = 7;

  // The timeout must be valid. Shared, because the timer holds on to it weakly.
  static std::shared_ptr<GradientMean> Make(double worker_timeout_ms);

  // Leaders that wait get Cancelled.
  ~GradientMean();

  double worker_timeout_ms() const { return worker_timeout_ms_; }

  // Hands in a gradient; calls `done`, maybe before Contribute returns. With a negative number of
  // the round, or one participant, the caller gets its own part at once.
  // InvalidArgument (by `done`) if the part is inconsistent or unlike another of its round, whose
  // leader then fails too.
  // Returns a number for Cancel.
  int64_t Contribute(const RoundPlace& place, GradientPart part, Callback done);

  // Gives up a round whose leader waits, and whose callback gets Cancelled; nothing if it no longer
  // waits.
  void Cancel(int64_t entry);

  std::array<int64_t, kNumCounters> Counters() const;

 private:
  struct Round {
    std::map<int32_t, GradientPart> parts;  // By worker.
    Timer::Clock::time_point ends_at;
    // Of the leader, once it has come.
    Callback done;
    int64_t entry = -1;
    int32_t num_participants = 0;
    Timer::Clock::time_point since;
  };
  struct Call {
    Callback done;
    absl::StatusOr<GradientParts> result;
  };
  using Calls = std::vector<Call>;

  explicit GradientMean(double worker_timeout_ms);
  // Those whose names end in Locked need mutex_; they collect callbacks for after it is released.
  void ContributeLocked(const RoundPlace& place, GradientPart part, Callback done, int64_t entry,
                        Calls* calls);
  void CompleteLocked(int64_t number, Calls* calls);
  void EndLocked(int64_t number, const absl::Status& status, Calls* calls);
  void AnswerLocked(Round* round, absl::StatusOr<GradientParts> result, Calls* calls);
  void ArmLocked();
  void OnTimer();
  static void Run(Calls calls);

  const double worker_timeout_ms_;
  const Timer::Clock::duration timeout_;
  mutable std::mutex mutex_;
  // All below by mutex_.
  std::map<int64_t, Round> rounds_;  // By number; those that have not ended.
  int64_t newest_ended_ = -1;
  bool armed_ = false;  // One call of the timer at most is to come.
  int64_t next_entry_ = 0;
  int64_t means_ = 0;
  int64_t gradients_ = 0;
  int64_t shrunk_ = 0;
  int64_t dropped_ = 0;
  int64_t late_ = 0;
  int64_t wait_nanoseconds_ = 0;
};

// Writes elements [begin, end) of the mean of dense parts of one shape to out[begin, end).
void MeanOfDense(const GradientParts& parts, int64_t begin, int64_t end, float* out);

// The mean of sparse parts, which must outlive it. A part without a row counts as zero for it.
class MeanOfSparse {
 public:
  explicit MeanOfSparse(const GradientParts& parts);

  // Rows that a part has, each once, ascending.
  const std::vector<int64_t>& rows() const { return rows_; }
  // Elements of a row.
  int64_t width() const { return width_; }

  // Writes the mean of rows()[begin, end) to out + begin * width().
  void Write(int64_t begin, int64_t end, float* out) const;

 private:
  const int64_t num_parts_;
  int64_t width_ = 1;
  std::vector<int64_t> rows_;
  std::vector<const float*> values_;  // Of each row in turn: the values to be summed, in order.
  std::vector<int64_t> starts_;  // Where those of rows()[i] start in values_; one more at the end.
};

}  // namespace amstf

#endif  // AMSTF_CC_ROUNDS_GRADIENT_MEAN_H_
