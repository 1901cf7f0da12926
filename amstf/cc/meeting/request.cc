#include "amstf/cc/meeting/request.h"

#include <algorithm>
#include <utility>

namespace amstf {
namespace {

absl::Status NotJoined() {
  return absl::FailedPreconditionError("the request has not joined a round");
}

}  // namespace

Request::Request(std::shared_ptr<MeetingState> state, int worker, absl::Span<const int64_t> ids)
    : state_(std::move(state)), participant_(std::make_shared<Participant>(worker, ids)) {
  state_->Count(kOpenRequests, 1);
}

Request::~Request() {
  Cancel();
  state_->Count(kOpenRequests, -1);
}

bool Request::Enter(std::shared_ptr<Round> round) {
  std::lock_guard<std::mutex> lock(mutex_);
  round_ = std::move(round);
  return !is_cancelled_;
}

std::shared_ptr<Round> Request::round() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return round_;
}

void Request::Cancel() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    is_cancelled_ = true;
  }
  // A copy: what the round calls may let go of this request.
  if (const std::shared_ptr<Round> mine = round()) mine->End(participant_);
}

bool Request::is_leader() const {
  const std::shared_ptr<Round> mine = round();
  return mine != nullptr && mine->IsLeader(*participant_);
}

absl::Span<const int64_t> Request::union_ids() const {
  const std::shared_ptr<Round> mine = round();
  if (mine == nullptr || !mine->IsLeader(*participant_)) return {};
  return mine->union_ids();
}

void Request::Share(Rows embeddings, int wire_bytes, ShareCallback callback) {
  const std::shared_ptr<Round> mine = round();
  if (mine == nullptr) return callback(NotJoined());
  mine->Share(participant_, std::move(embeddings), wire_bytes, std::move(callback));
}

void Request::Gather(const Rows& embeddings, float* out) const {
  const int64_t width = embeddings.width;
  if (is_union()) {
    std::copy_n(embeddings.values, num_ids() * width, out);
    return;
  }
  for (int32_t position : participant_->positions) {
    out = std::copy_n(embeddings.values + position * width, width, out);
  }
}

void Request::JoinGradient(Rows gradient, int wire_bytes, GradientCallback callback) {
  const std::shared_ptr<Round> mine = round();
  if (mine == nullptr) return callback(NotJoined());
  mine->JoinGradient(participant_, std::move(gradient), wire_bytes, std::move(callback));
}

void Request::EndBackward() {
  const std::shared_ptr<Round> mine = round();
  if (mine != nullptr) mine->EndBackward(*participant_);
}

}  // namespace amstf
