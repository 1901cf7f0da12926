// For the tests of meetings: expectations, and a worker's step whose parts can be awaited.
#ifndef AMSTF_CC_MEETING_MEETING_TESTING_H_
#define AMSTF_CC_MEETING_MEETING_TESTING_H_

#include <chrono>
#include <cstdlib>
#include <future>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_join.h"
#include "amstf/cc/meeting/meeting.h"
#include "amstf/cc/testing/expect.h"

namespace amstf {

template <typename T>
void ExpectEqual(const std::vector<T>& got, const std::vector<T>& wanted, const std::string& what) {
  Expect(got == wanted, what + ": got [" + absl::StrJoin(got, ", ") + "], wanted [" +
                            absl::StrJoin(wanted, ", ") + "]");
}

// Of a test that fails by hanging; no test waits so long otherwise.
constexpr std::chrono::seconds kForever(60);
constexpr double kForeverMs = 600000;

// What an awaited call gave; ends the program if it never comes.
template <typename T>
T Get(std::future<T>& future, const std::string& what) {
  if (future.wait_for(kForever) != std::future_status::ready) {
    std::cerr << "FAILED: hangs: " << what << "\n";
    std::_Exit(EXIT_FAILURE);
  }
  return future.get();
}

template <typename T>
bool IsReady(const std::future<T>& future) {
  return future.wait_for(std::chrono::seconds(0)) == std::future_status::ready;
}

// A status of its own: the copies of one share a text by counting references in TensorFlow's
// library, which the thread sanitizer does not see; it would take the end of the last copy for a
// race.
inline absl::Status Own(const absl::Status& status) {
  return absl::Status(status.code(), status.message());
}

using Floats = std::vector<float>;

// One worker's step at one meeting. Each part may be called once, in order.
class Step {
 public:
  Step(const std::shared_ptr<Meeting>& meeting, int worker, const std::vector<int64_t>& ids,
       const SyncRound& sync = {})
      : request_(meeting->NewRequest(worker, ids)), joined_(was_joined_->get_future()) {
    meeting->Join(request_.get(), sync, [done = was_joined_](const absl::Status& status) {
      done->set_value(Own(status));
    });
  }

  bool has_joined() const { return IsReady(joined_); }
  absl::Status Join() { return Get(joined_, "join"); }
  bool leads() const { return request_->is_leader(); }
  std::vector<int64_t> union_ids() const {
    return std::vector<int64_t>(request_->union_ids().begin(), request_->union_ids().end());
  }
  Request& request() { return *request_; }

  Step& Share(const Floats& embeddings, int64_t width, int wire_bytes = 4) {
    auto done = std::make_shared<std::promise<absl::StatusOr<Floats>>>();
    rows_ = done->get_future();
    request_->Share(Borrow(embeddings, width), wire_bytes,
                    [done, request = request_.get()](const absl::StatusOr<Rows>& shared) {
                      if (!shared.ok()) return done->set_value(Own(shared.status()));
                      Floats rows(request->num_ids() * shared->width);
                      request->Gather(*shared, rows.data());
                      done->set_value(std::move(rows));
                    });
    return *this;
  }
  bool has_rows() const { return IsReady(rows_); }
  absl::StatusOr<Floats> rows() { return Get(rows_, "share"); }

  Step& JoinGradient(const Floats& gradient, int64_t width, int wire_bytes = 4) {
    auto done = std::make_shared<std::promise<absl::StatusOr<Floats>>>();
    sum_ = done->get_future();
    request_->JoinGradient(Borrow(gradient, width), wire_bytes,
                           [done](const absl::StatusOr<GradientSum>& sum) {
                             if (!sum.ok()) return done->set_value(Own(sum.status()));
                             Floats out(sum->rows() * sum->width());
                             sum->Write(out.data());
                             done->set_value(std::move(out));
                           });
    return *this;
  }
  bool has_sum() const { return IsReady(sum_); }
  absl::StatusOr<Floats> sum() { return Get(sum_, "join gradient"); }

  // As when the last tensor that holds the request goes.
  void End() { request_ = nullptr; }

  // What was given, or will be seen to have been let go of.
  const std::vector<std::weak_ptr<const void>>& borrowed() const { return borrowed_; }

 private:
  Rows Borrow(const Floats& values, int64_t width) {
    auto owner = std::make_shared<const Floats>(values);
    borrowed_.push_back(owner);
    return {owner->data(), static_cast<int64_t>(values.size()) / width, width, owner};
  }

  std::shared_ptr<Request> request_;
  std::shared_ptr<std::promise<absl::Status>> was_joined_ =
      std::make_shared<std::promise<absl::Status>>();
  std::future<absl::Status> joined_;
  std::future<absl::StatusOr<Floats>> rows_;
  std::future<absl::StatusOr<Floats>> sum_;
  std::vector<std::weak_ptr<const void>> borrowed_;
};

// Nobody is waited for but as the test says: all times are for ever, unless given.
inline std::shared_ptr<Meeting> Open(Merge merge, int num_workers,
                                     double merge_wait_ms = kForeverMs,
                                     double worker_timeout_ms = kForeverMs) {
  MeetingOptions options;
  options.merge = merge;
  options.num_workers = num_workers;
  options.merge_wait_ms = merge_wait_ms;
  options.worker_timeout_ms = worker_timeout_ms;
  options.name = "the meeting 'test' on /job:ps/task:3";
  return *Meeting::Open(options);
}

inline int64_t Counted(const std::shared_ptr<Meeting>& meeting, MeetingCounter counter) {
  return meeting->Counters()[counter];
}

inline void ExpectCounted(const std::shared_ptr<Meeting>& meeting, MeetingCounter counter,
                          int64_t wanted, const std::string& what) {
  const int64_t got = Counted(meeting, counter);
  Expect(got == wanted,
         what + ": counted " + std::to_string(got) + ", wanted " + std::to_string(wanted));
}

}  // namespace amstf

#endif  // AMSTF_CC_MEETING_MEETING_TESTING_H_
