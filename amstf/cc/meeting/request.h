// One worker's request to embed images, from join to gradient.
#ifndef AMSTF_CC_MEETING_REQUEST_H_
#define AMSTF_CC_MEETING_REQUEST_H_

#include <cstdint>
#include <memory>
#include <mutex>

#include "absl/types/span.h"
#include "amstf/cc/meeting/round.h"

namespace amstf {

// A request of a meeting. Thread-safe, but its three steps (Meeting::Join, Share, JoinGradient)
// come one after the other.
//
// Its end is the end of the step's interest: once it is destroyed, nobody waits for it any longer.
class Request {
 public:
  // Made by Meeting::NewRequest.
  Request(std::shared_ptr<MeetingState> state, int worker, absl::Span<const int64_t> ids);
  ~Request();
  Request(const Request&) = delete;
  Request& operator=(const Request&) = delete;

  int64_t num_ids() const { return participant_->num_ids; }

  // From the join callback on.
  bool is_leader() const;
  // The ids that this request has to embed for its round: [U] if it leads, none otherwise.
  absl::Span<const int64_t> union_ids() const;

  // The leader publishes the embeddings [U, D] of the union, others come with none [0, D]. Everyone
  // gets what the leader published.
  //
  // wire_bytes: of one value on its way to the worker, for the counters.
  // Errors: Cancelled if the leader is gone or hangs: the step has to run again. InvalidArgument if
  // the shape is wrong.
  void Share(Rows embeddings, int wire_bytes, ShareCallback callback);

  // Copies the rows of this request's own ids out of what Share gave: [n, D].
  void Gather(const Rows& embeddings, float* out) const;
  // Whether those rows are all that Share gave, in order.
  bool is_union() const { return participant_->is_union; }

  // Brings the gradient [n, D] of the rows. The leader gets the sum once all requests of the round
  // have brought theirs or are gone, the others go on at once.
  //
  // Errors: InvalidArgument if the shape is wrong.
  void JoinGradient(Rows gradient, int wire_bytes, GradientCallback callback);

  // The leader's backward is done; only the counters care.
  void EndBackward();

  // As if it were destroyed, which may take a while when its step is cancelled: it waits no longer,
  // and all that comes gets Cancelled.
  void Cancel();

 private:
  friend class Meeting;

  // False if it was cancelled before.
  bool Enter(std::shared_ptr<Round> round);
  std::shared_ptr<Round> round() const;

  const std::shared_ptr<MeetingState> state_;
  const ParticipantPtr participant_;

  mutable std::mutex mutex_;
  bool is_cancelled_ = false;     // By mutex_.
  std::shared_ptr<Round> round_;  // By mutex_; set once.
};

}  // namespace amstf

#endif  // AMSTF_CC_MEETING_REQUEST_H_
