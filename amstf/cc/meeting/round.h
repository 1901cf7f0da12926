// Requests that met: one union of ids, one leader, one sum of gradients.
#ifndef AMSTF_CC_MEETING_ROUND_H_
#define AMSTF_CC_MEETING_ROUND_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "amstf/cc/meeting/options.h"

namespace amstf {

// A borrowed matrix of floats [rows, width], and what keeps it alive.
struct Rows {
  const float* values = nullptr;
  int64_t rows = 0;
  int64_t width = 0;
  std::shared_ptr<const void> owner;
};

struct Participant;

// The gradients of a round, for its leader to add up into memory of its own.
class GradientSum {
 public:
  // Of a request that does not lead: no rows.
  explicit GradientSum(int64_t width) : width_(width) {}

  bool is_leader() const { return is_leader_; }
  int64_t rows() const { return rows_; }    // U; 0 for those that do not lead.
  int64_t width() const { return width_; }  // D
  // Whether the sum is the leader's own gradient, row for row: there is nothing to add up.
  bool is_own_gradient() const;
  // Writes [rows, width]: sum per id of the union, or mean over the requests that brought one.
  void Write(float* out) const;

 private:
  friend class Round;
  struct Part {
    std::shared_ptr<const Participant> from;
    Rows gradient;
  };
  bool is_leader_ = false;
  bool is_mean_ = false;
  int64_t rows_ = 0;
  int64_t width_;
  std::vector<Part> parts_;  // By worker: floats add up to the same sum whoever came first.
};

// Each is called exactly once, without any lock held. The status is Cancelled if the request's step
// was cancelled or has to run again.
using JoinCallback = std::function<void(const absl::Status&)>;
using ShareCallback = std::function<void(const absl::StatusOr<Rows>&)>;
using GradientCallback = std::function<void(const absl::StatusOr<GradientSum>&)>;

// What a round knows of one request; outlives it, since a gradient stays when its request ends.
struct Participant {
  Participant(int worker, absl::Span<const int64_t> ids)
      : worker(worker), num_ids(ids.size()), ids(ids.begin(), ids.end()) {}

  const int worker;
  const int64_t num_ids;  // n

  // Written before the request's join callback is called, and not changed after it.
  std::vector<int64_t> ids;        // [n], until the round is closed.
  std::vector<int32_t> positions;  // [n], rows of the union; empty if is_union.
  bool is_union = false;           // The union is this request's ids, row for row.
  bool leads = false;              // The round table wants it to lead.

  // By the round's mutex.
  MeetingClock::time_point joined_at;
  JoinCallback on_join;  // Of these three at most one is set: the request waits.
  ShareCallback on_share;
  GradientCallback on_gradient;
  int64_t width = 0;  // Of what it shares.
  int wire_bytes = sizeof(float);
  bool has_rows = false;
  bool was_sent_away = false;  // It lost its leader, and is not to be counted as gone.
  bool brought_gradient = false;
  bool has_ended = false;
  Rows gradient;
};

using ParticipantPtr = std::shared_ptr<Participant>;

// One round, from its first request to its end. Thread-safe.
//
// Callbacks are collected under the lock and called after it is released.
class Round : public std::enable_shared_from_this<Round> {
 public:
  // is_mean: JoinGradient gives the mean over requests instead of the sum.
  Round(std::shared_ptr<MeetingState> state, bool is_mean)
      : state_(std::move(state)), is_mean_(is_mean) {}

  // Not to be called after Close.
  void Add(ParticipantPtr who, JoinCallback callback);

  // Forms the union of those that are still there, chooses the leader and lets all go on. Call it
  // once.
  void Close();

  // The next are for participants of a closed round; see Request. They hold on to the participant:
  // a callback may end its request.
  bool IsLeader(const Participant& who) const { return leader_.get() == &who; }
  absl::Span<const int64_t> union_ids() const { return union_ids_; }
  void Share(ParticipantPtr who, Rows embeddings, int wire_bytes, ShareCallback callback);
  void JoinGradient(ParticipantPtr who, Rows gradient, int wire_bytes, GradientCallback callback);
  void EndBackward(const Participant& who);

  // The participant takes no further part; if it waits, it gets Cancelled. Again: does nothing.
  void End(ParticipantPtr who);

 private:
  using Calls = std::vector<std::function<void()>>;

  // All of these need the lock.
  void FormUnion();
  absl::Status CheckShare(const Participant& who, const Rows& embeddings) const;
  absl::Status CheckGradient(const Participant& who, const Rows& gradient) const;
  void Deliver(const ParticipantPtr& who, Calls* calls);
  void SendAway(const ParticipantPtr& who, const std::string& what_happened, Calls* calls);
  void Cancel(const ParticipantPtr& who, Calls* calls);
  void CountIfGone(const Participant& who, bool waited_for_sum);
  void FormSumIfComplete(bool is_overdue, Calls* calls);
  void ForgetEmbeddingsIfTaken(Calls* calls);
  bool IsOverdue() const;

  void CallWhenOverdue(MeetingClock::time_point since, void (Round::*overdue)());
  void ShareIsOverdue();
  void GradientsAreOverdue();

  const std::shared_ptr<MeetingState> state_;
  const bool is_mean_;

  std::mutex mutex_;
  // Written in Close, not changed after it.
  ParticipantPtr leader_;
  std::vector<int64_t> union_ids_;  // [U]
  MeetingClock::time_point closed_at_;
  // By mutex_.
  std::vector<ParticipantPtr> participants_;  // As they joined; by worker once closed.
  bool is_closed_ = false;
  bool has_timer_ = false;  // For the embeddings.
  bool is_shared_ = false;
  Rows embeddings_;  // [U, D]
  int64_t width_ = 0;
  MeetingClock::time_point leader_gradient_at_;
  MeetingClock::time_point summed_at_;
  int num_brought_ = 0;  // Gradients.
  int num_silent_ = 0;   // Ended without a gradient before there was any.
  bool is_summed_ = false;
};

}  // namespace amstf

#endif  // AMSTF_CC_MEETING_ROUND_H_
