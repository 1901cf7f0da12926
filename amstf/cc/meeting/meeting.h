// Where the requests of several workers to one server meet.
#ifndef AMSTF_CC_MEETING_MEETING_H_
#define AMSTF_CC_MEETING_MEETING_H_

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "amstf/cc/meeting/options.h"
#include "amstf/cc/meeting/request.h"
#include "amstf/cc/meeting/round.h"

namespace amstf {

// What the round table says about the synchronous round of a step.
struct SyncRound {
  int64_t number = -1;  // < 0: the step is in none.
  int num_participants = 1;
  bool leads = true;
};

// Seats requests in rounds: whose images are embedded together, whose gradients are summed. Makes
// no difference to the result, only to the work. Thread-safe.
//
// Policies: docs/design/ams.md. A worker's second request never sits in a round with its first: it
// opens, or joins, the next one; so a layer may be called twice in a step.
class Meeting : public std::enable_shared_from_this<Meeting> {
 public:
  static absl::StatusOr<std::shared_ptr<Meeting>> Open(const MeetingOptions& options);
  // Closes the rounds that are open. The requests live on.
  ~Meeting();

  const MeetingOptions& options() const { return state_->options; }
  // In the order of MeetingCounter.
  std::vector<int64_t> Counters() const;

  // A request that has not joined yet; Request::Cancel works already.
  // worker: its index; < 0: unknown, it meets nobody.
  // ids: [n], may have duplicates, may be empty.
  std::shared_ptr<Request> NewRequest(int worker, absl::Span<const int64_t> ids);

  // Waits until the request's round is closed. The callback may come before this returns; the
  // request has to live until then.
  //
  // Errors: InvalidArgument, naming the argument.
  void Join(Request* request, const SyncRound& sync, JoinCallback callback);

 private:
  // The seats of a round. Under kSync they are remembered for a while after it is closed: who comes
  // then is late, and does not wait for anybody.
  struct Table {
    int64_t number;  // -1 under kAsync.
    int num_participants;
    std::vector<int> workers;      // All that joined, also those that are gone.
    std::shared_ptr<Round> round;  // Null once it is closed.
  };
  using Tables = std::list<Table>;

  explicit Meeting(const MeetingOptions& options);

  absl::Status Check(const Request& request, const SyncRound& sync) const;
  bool IsAlone(const Participant& who, const SyncRound& sync) const;
  std::shared_ptr<Round> NewRound() const;
  void CloseLater(const std::shared_ptr<Round>& round, MeetingClock::duration wait);
  void CloseIfOpen(const std::shared_ptr<Round>& round);

  // These need the lock. FindTable seats the worker, at a new table if it has to.
  Tables::iterator FindTable(int worker, const SyncRound& sync, bool* is_new);
  bool IsComplete(const Table& table) const;
  // Nobody else sits down there: the round is returned, to be closed.
  std::shared_ptr<Round> Clear(Tables::iterator table);

  const std::shared_ptr<MeetingState> state_;

  std::mutex mutex_;
  Tables tables_;                                      // By mutex_, in the order they were opened.
  std::vector<MeetingClock::time_point> last_joined_;  // By mutex_; for each worker.
};

}  // namespace amstf

#endif  // AMSTF_CC_MEETING_MEETING_H_
