#include "amstf/cc/meeting/meeting.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "amstf/cc/meeting/timeout.h"

namespace amstf {
namespace {

// Enough for a worker that is late by some rounds; there is one Table for each.
constexpr int64_t kRoundsRemembered = 16;

}  // namespace

absl::Status MeetingOptions::Validate() const {
  if (num_workers < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_workers is ", num_workers, "; wanted at least 1"));
  }
  if (!(merge_wait_ms >= 0 && merge_wait_ms <= kLongestTimeoutMs)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "merge_wait_ms is ", merge_wait_ms, "; wanted milliseconds from 0 to ", kLongestTimeoutMs));
  }
  return ValidateTimeout("worker_timeout_ms", worker_timeout_ms);
}

MeetingClock::duration MeetingOptions::merge_wait() const { return TimeoutDuration(merge_wait_ms); }

MeetingClock::duration MeetingOptions::worker_timeout() const {
  return TimeoutDuration(worker_timeout_ms);
}

Meeting::Meeting(const MeetingOptions& options)
    : state_(std::make_shared<MeetingState>(options)),
      last_joined_(options.num_workers, MeetingClock::now()) {}

absl::StatusOr<std::shared_ptr<Meeting>> Meeting::Open(const MeetingOptions& options) {
  const absl::Status status = options.Validate();
  if (!status.ok()) return status;
  return std::shared_ptr<Meeting>(new Meeting(options));
}

Meeting::~Meeting() {
  for (Table& table : tables_) {
    if (table.round != nullptr) table.round->Close();
  }
}

std::vector<int64_t> Meeting::Counters() const {
  return std::vector<int64_t>(state_->counters.begin(), state_->counters.end());
}

std::shared_ptr<Request> Meeting::NewRequest(int worker, absl::Span<const int64_t> ids) {
  return std::make_shared<Request>(state_, worker, ids);
}

absl::Status Meeting::Check(const Request& request, const SyncRound& sync) const {
  const Participant& who = *request.participant_;
  if (request.round() != nullptr) {
    return absl::FailedPreconditionError("a request joins once, and this one already has");
  }
  if (who.worker >= options().num_workers) {
    return absl::InvalidArgumentError(
        absl::StrCat("worker is ", who.worker, ", and ", options().name, " was opened for ",
                     options().num_workers, " workers (0 to ", options().num_workers - 1, ")"));
  }
  if (sync.number >= 0 && sync.num_participants < 1) {
    return absl::InvalidArgumentError(absl::StrCat("num_participants is ", sync.num_participants,
                                                   "; wanted at least 1 in round ", sync.number));
  }
  return absl::OkStatus();
}

bool Meeting::IsAlone(const Participant& who, const SyncRound& sync) const {
  switch (options().merge) {
    case Merge::kNone:
      return true;
    case Merge::kAsync:
      return who.worker < 0;
    case Merge::kSync:
      return who.worker < 0 || sync.number < 0;
  }
  return true;
}

std::shared_ptr<Round> Meeting::NewRound() const {
  return std::make_shared<Round>(state_, options().merge == Merge::kSync);
}

void Meeting::Join(Request* request, const SyncRound& sync, JoinCallback callback) {
  // A copy: once seated, the request may end at any time.
  const ParticipantPtr who = request->participant_;
  const absl::Status status = Check(*request, sync);
  if (!status.ok()) return callback(status);
  who->leads = options().merge == Merge::kSync && sync.leads;
  state_->Count(kRequests, 1);
  state_->Count(kIdsAsked, who->num_ids);
  state_->Count(kBytesIn, who->num_ids * sizeof(int64_t));

  std::shared_ptr<Round> round;
  std::shared_ptr<Round> complete;
  bool is_new = false;
  bool is_cancelled;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!IsAlone(*who, sync)) {
      const Tables::iterator table = FindTable(who->worker, sync, &is_new);
      round = table->round;
      if (round != nullptr && IsComplete(*table)) complete = Clear(table);
    }
    if (round == nullptr) round = complete = NewRound();
    round->Add(who, std::move(callback));
    is_cancelled = !request->Enter(round);
  }
  if (is_cancelled) round->End(who);
  if (complete != nullptr) {
    complete->Close();
  } else if (is_new) {
    CloseLater(round, options().merge == Merge::kAsync ? options().merge_wait()
                                                       : options().worker_timeout());
  }
}

Meeting::Tables::iterator Meeting::FindTable(int worker, const SyncRound& sync, bool* is_new) {
  const bool is_async = options().merge == Merge::kAsync;
  if (is_async) last_joined_[worker] = MeetingClock::now();
  const int64_t number = is_async ? -1 : sync.number;
  auto table = std::find_if(tables_.begin(), tables_.end(), [&](const Table& one) {
    return one.number == number &&
           std::find(one.workers.begin(), one.workers.end(), worker) == one.workers.end();
  });
  *is_new = table == tables_.end();
  if (*is_new) {
    table = tables_.insert(tables_.end(), Table{number, sync.num_participants, {}, NewRound()});
  }
  table->workers.push_back(worker);
  return table;
}

bool Meeting::IsComplete(const Table& table) const {
  if (options().merge == Merge::kSync) return table.workers.size() >= table.num_participants;
  const MeetingClock::time_point alive_since = MeetingClock::now() - options().worker_timeout();
  for (int worker = 0; worker < last_joined_.size(); ++worker) {
    if (last_joined_[worker] < alive_since) continue;
    const auto& workers = table.workers;
    if (std::find(workers.begin(), workers.end(), worker) == workers.end()) return false;
  }
  return true;
}

std::shared_ptr<Round> Meeting::Clear(Tables::iterator table) {
  std::shared_ptr<Round> round = std::move(table->round);
  table->round = nullptr;
  if (options().merge == Merge::kAsync) {
    tables_.erase(table);
  } else {
    const int64_t newest = table->number;
    tables_.remove_if([&](const Table& one) {
      return one.round == nullptr && one.number + kRoundsRemembered < newest;
    });
  }
  return round;
}

void Meeting::CloseLater(const std::shared_ptr<Round>& round, MeetingClock::duration wait) {
  Timer::Shared().CallAt(MeetingClock::now() + wait, [weak_meeting = weak_from_this(),
                                                      weak_round = std::weak_ptr<Round>(round)] {
    const std::shared_ptr<Meeting> meeting = weak_meeting.lock();
    const std::shared_ptr<Round> round = weak_round.lock();
    if (meeting != nullptr && round != nullptr) meeting->CloseIfOpen(round);
  });
}

void Meeting::CloseIfOpen(const std::shared_ptr<Round>& round) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto table = std::find_if(tables_.begin(), tables_.end(),
                                    [&](const Table& one) { return one.round == round; });
    if (table == tables_.end()) return;
    Clear(table);
  }
  round->Close();
}

}  // namespace amstf
