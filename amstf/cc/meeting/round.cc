#include "amstf/cc/meeting/round.h"

#include <algorithm>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "amstf/cc/meeting/distinct_ids.h"
#include "amstf/cc/meeting/timer.h"

namespace amstf {
namespace {

void Run(const std::vector<std::function<void()>>& calls) {
  for (const auto& call : calls) call();
}

absl::Status StepCancelled() {
  return absl::CancelledError("the step of this request was cancelled");
}

}  // namespace

bool GradientSum::is_own_gradient() const {
  return is_leader_ && parts_.size() == 1 && parts_[0].from->is_union;
}

void GradientSum::Write(float* out) const {
  std::fill_n(out, rows_ * width_, 0.0f);
  for (const Part& part : parts_) {
    const float* from = part.gradient.values;
    for (int64_t i = 0; i < part.from->num_ids; ++i, from += width_) {
      float* to = out + (part.from->is_union ? i : part.from->positions[i]) * width_;
      for (int64_t j = 0; j < width_; ++j) to[j] += from[j];
    }
  }
  if (!is_mean_ || parts_.size() < 2) return;
  const float scale = 1.0f / parts_.size();
  for (int64_t i = 0; i < rows_ * width_; ++i) out[i] *= scale;
}

void Round::Add(ParticipantPtr who, JoinCallback callback) {
  std::lock_guard<std::mutex> lock(mutex_);
  who->on_join = std::move(callback);
  who->joined_at = MeetingClock::now();
  participants_.push_back(std::move(who));
}

void Round::Close() {
  Calls calls;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    is_closed_ = true;
    participants_.erase(std::remove_if(participants_.begin(), participants_.end(),
                                       [](const ParticipantPtr& who) { return who->has_ended; }),
                        participants_.end());
    if (participants_.empty()) return;
    const auto wanted = std::find_if(participants_.begin(), participants_.end(),
                                     [](const ParticipantPtr& who) { return who->leads; });
    leader_ = wanted == participants_.end() ? participants_.front() : *wanted;
    // From here on nothing depends on who came first, so that a run can be repeated bit by bit.
    std::stable_sort(
        participants_.begin(), participants_.end(),
        [](const ParticipantPtr& a, const ParticipantPtr& b) { return a->worker < b->worker; });
    FormUnion();
    closed_at_ = MeetingClock::now();
    state_->Count(kRounds, 1);
    state_->Count(kIdsDistinct, union_ids_.size());
    if (participants_.size() > 1) state_->Count(kMerged, participants_.size());
    for (const ParticipantPtr& who : participants_) {
      state_->Count(kWaitNanoseconds, closed_at_ - who->joined_at);
      auto call = [callback = std::exchange(who->on_join, nullptr)] { callback(absl::OkStatus()); };
      // The others wait for the leader anyway.
      calls.insert(who == leader_ ? calls.begin() : calls.end(), std::move(call));
    }
  }
  Run(calls);
}

void Round::FormUnion() {
  size_t num_ids = 0;
  for (const ParticipantPtr& who : participants_) num_ids += who->ids.size();
  DistinctIds distinct(num_ids);
  for (const ParticipantPtr& who : participants_) {
    who->positions.reserve(who->ids.size());
    for (int64_t id : who->ids) who->positions.push_back(distinct.Add(id));
    who->ids = {};
  }
  union_ids_ = distinct.Take();
  for (const ParticipantPtr& who : participants_) {
    who->is_union = who->positions.size() == union_ids_.size();
    for (size_t i = 0; who->is_union && i < who->positions.size(); ++i) {
      who->is_union = who->positions[i] == i;
    }
    if (who->is_union) who->positions = {};
  }
}

absl::Status Round::CheckShare(const Participant& who, const Rows& embeddings) const {
  if (who.has_ended) return StepCancelled();
  if (!is_closed_) {
    return absl::FailedPreconditionError("a request shares once it has joined, this one waits");
  }
  if (who.has_rows || who.on_share) {
    return absl::FailedPreconditionError("a request shares once, and this one already has");
  }
  if (IsLeader(who) && embeddings.rows != union_ids_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("embeddings has ", embeddings.rows, " rows; wanted ", union_ids_.size(),
                     ", one for each id of union_ids of this request"));
  }
  if (!IsLeader(who) && embeddings.rows != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("embeddings has ", embeddings.rows,
                     " rows; wanted none: this request does not lead its round, embed its "
                     "union_ids, which are empty"));
  }
  return absl::OkStatus();
}

void Round::Share(ParticipantPtr who, Rows embeddings, int wire_bytes, ShareCallback callback) {
  Calls calls;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const absl::Status status = CheckShare(*who, embeddings);
    if (!status.ok()) {
      calls.push_back([&callback, status] { callback(status); });
    } else {
      who->wire_bytes = wire_bytes;
      who->width = embeddings.width;
      who->on_share = std::move(callback);
      if (IsLeader(*who)) {
        state_->Count(kLeaderForwardNanoseconds, MeetingClock::now() - closed_at_);
        is_shared_ = true;
        width_ = embeddings.width;
        embeddings_ = std::move(embeddings);
        for (const ParticipantPtr& one : participants_) {
          if (one->on_share) Deliver(one, &calls);
        }
        ForgetEmbeddingsIfTaken(&calls);
      } else if (is_shared_) {
        Deliver(who, &calls);
        ForgetEmbeddingsIfTaken(&calls);
      } else if (leader_->has_ended) {
        SendAway(who, "is gone", &calls);
      } else if (IsOverdue()) {
        SendAway(who, "hangs", &calls);
      } else if (!std::exchange(has_timer_, true)) {
        CallWhenOverdue(closed_at_, &Round::ShareIsOverdue);
      }
    }
  }
  Run(calls);
}

void Round::Deliver(const ParticipantPtr& who, Calls* calls) {
  if (who->width != width_) {
    const absl::Status status = absl::InvalidArgumentError(
        absl::StrCat("embeddings has width ", who->width, ", and those of worker ", leader_->worker,
                     ", which leads the round, have ", width_,
                     "; wanted the same embedding model on all workers"));
    calls->push_back(
        [callback = std::exchange(who->on_share, nullptr), status] { callback(status); });
    return;
  }
  who->has_rows = true;
  state_->Count(kBytesOut, who->num_ids * width_ * who->wire_bytes);
  calls->push_back(
      [callback = std::exchange(who->on_share, nullptr), rows = embeddings_] { callback(rows); });
}

void Round::SendAway(const ParticipantPtr& who, const std::string& what_happened, Calls* calls) {
  who->was_sent_away = true;
  // Cancelled, naming a task: that is what TensorFlow's coordinator answers with another run.
  const absl::Status status = absl::CancelledError(
      absl::StrCat("in ", state_->options.name, " the request of worker ", leader_->worker,
                   ", which embeds the images of this round, ", what_happened,
                   " and has not shared them; this step runs again"));
  calls->push_back(
      [callback = std::exchange(who->on_share, nullptr), status] { callback(status); });
}

void Round::ForgetEmbeddingsIfTaken(Calls* calls) {
  for (const ParticipantPtr& who : participants_) {
    if (!who->has_rows && !who->has_ended) return;
  }
  calls->push_back([forgotten = std::exchange(embeddings_, Rows())] {});
}

absl::Status Round::CheckGradient(const Participant& who, const Rows& gradient) const {
  if (who.has_ended) return StepCancelled();
  if (!who.has_rows) {
    return absl::FailedPreconditionError(
        "a request brings its gradient after it has its rows (AmsShare), and this one has none");
  }
  if (who.brought_gradient) {
    return absl::FailedPreconditionError(
        "a request brings one gradient, and this one already has; a second backward of the same "
        "step is not supported");
  }
  if (gradient.rows != who.num_ids || gradient.width != width_) {
    return absl::InvalidArgumentError(
        absl::StrCat("gradient has shape [", gradient.rows, ", ", gradient.width, "]; wanted [",
                     who.num_ids, ", ", width_, "], that of the rows which AmsShare gave"));
  }
  return absl::OkStatus();
}

void Round::JoinGradient(ParticipantPtr who, Rows gradient, int wire_bytes,
                         GradientCallback callback) {
  Calls calls;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const absl::Status status = CheckGradient(*who, gradient);
    if (!status.ok()) {
      calls.push_back([&callback, status] { callback(status); });
    } else {
      state_->Count(kBytesIn, who->num_ids * width_ * wire_bytes);
      who->brought_gradient = true;
      if (++num_brought_ == 1) state_->Count(kGone, num_silent_);
      if (is_summed_ || leader_->has_ended) {
        state_->Count(kLate, 1);
      } else {
        who->gradient = std::move(gradient);
      }
      if (IsLeader(*who)) {
        who->on_gradient = std::move(callback);
        leader_gradient_at_ = MeetingClock::now();
      } else {
        calls.push_back([&callback, width = width_] { callback(GradientSum(width)); });
      }
      FormSumIfComplete(false, &calls);
      if (who->on_gradient) CallWhenOverdue(leader_gradient_at_, &Round::GradientsAreOverdue);
    }
  }
  Run(calls);
}

void Round::FormSumIfComplete(bool is_overdue, Calls* calls) {
  if (!leader_->on_gradient) return;
  for (const ParticipantPtr& who : participants_) {
    if (!is_overdue && !who->brought_gradient && !who->has_ended) return;
  }
  GradientSum sum(width_);
  sum.is_leader_ = true;
  sum.is_mean_ = is_mean_;
  sum.rows_ = union_ids_.size();
  for (const ParticipantPtr& who : participants_) {
    if (who->brought_gradient) sum.parts_.push_back({who, std::exchange(who->gradient, Rows())});
  }
  is_summed_ = true;
  summed_at_ = MeetingClock::now();
  state_->Count(kLeaderBackwardWaitNanoseconds, MeetingClock::now() - leader_gradient_at_);
  calls->push_back([callback = std::exchange(leader_->on_gradient, nullptr), sum = std::move(sum)] {
    callback(sum);
  });
}

void Round::EndBackward(const Participant& who) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!is_summed_ || !IsLeader(who)) return;
  state_->Count(kLeaderBackwardNanoseconds, MeetingClock::now() - summed_at_);
}

void Round::Cancel(const ParticipantPtr& who, Calls* calls) {
  if (who->on_join) {
    calls->push_back(
        [callback = std::exchange(who->on_join, nullptr)] { callback(StepCancelled()); });
  }
  if (who->on_share) {
    calls->push_back(
        [callback = std::exchange(who->on_share, nullptr)] { callback(StepCancelled()); });
  }
  if (who->on_gradient) {
    calls->push_back(
        [callback = std::exchange(who->on_gradient, nullptr)] { callback(StepCancelled()); });
  }
}

void Round::CountIfGone(const Participant& who, bool waited_for_sum) {
  if (who.was_sent_away || (who.brought_gradient && !waited_for_sum)) return;
  if (!who.has_rows || waited_for_sum || num_brought_ > 0) {
    state_->Count(kGone, 1);
  } else {
    // An evaluation brings no gradient at all; whether this step lacks one, the others will tell.
    ++num_silent_;
  }
}

void Round::End(ParticipantPtr who) {
  Calls calls;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (std::exchange(who->has_ended, true)) return;
    CountIfGone(*who, who->on_gradient != nullptr);
    Cancel(who, &calls);
    if (is_closed_ && leader_ != nullptr) {
      if (IsLeader(*who)) {
        for (const ParticipantPtr& other : participants_) {
          if (other->on_share) SendAway(other, "is gone", &calls);
          // Nobody is left to add it up. Let go of after the lock, as all that others own.
          if (other != who && other->brought_gradient && !is_summed_) state_->Count(kLate, 1);
          calls.push_back([forgotten = std::exchange(other->gradient, Rows())] {});
        }
      }
      FormSumIfComplete(false, &calls);
      ForgetEmbeddingsIfTaken(&calls);
    }
  }
  Run(calls);
}

bool Round::IsOverdue() const {
  return MeetingClock::now() >= closed_at_ + state_->options.worker_timeout();
}

void Round::CallWhenOverdue(MeetingClock::time_point since, void (Round::*overdue)()) {
  Timer::Shared().CallAt(since + state_->options.worker_timeout(),
                         [weak = weak_from_this(), overdue] {
                           if (const auto round = weak.lock()) (round.get()->*overdue)();
                         });
}

void Round::ShareIsOverdue() {
  Calls calls;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const ParticipantPtr& who : participants_) {
      if (who->on_share) SendAway(who, "hangs", &calls);
    }
  }
  Run(calls);
}

void Round::GradientsAreOverdue() {
  Calls calls;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    FormSumIfComplete(true, &calls);
  }
  Run(calls);
}

}  // namespace amstf
