#include "amstf/cc/rounds/round_table.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "amstf/cc/meeting/timeout.h"

namespace amstf {
namespace {

using Clock = Timer::Clock;

int64_t NanosecondsSince(Clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
}

}  // namespace

absl::Status RoundTableOptions::Validate() const {
  if (num_workers < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_workers must be at least 1, got ", num_workers));
  }
  return ValidateTimeout("worker_timeout_ms", worker_timeout_ms);
}

std::shared_ptr<RoundTable> RoundTable::Make(const RoundTableOptions& options) {
  return std::shared_ptr<RoundTable>(new RoundTable(options));
}

RoundTable::RoundTable(const RoundTableOptions& options)
    : options_(options), timeout_(TimeoutDuration(options.worker_timeout_ms)) {
  for (int32_t worker = 0; worker < options.num_workers; ++worker) live_.insert(worker);
}

RoundTable::~RoundTable() {
  for (auto& [worker, waiting] : waiting_) {
    waiting.done(absl::CancelledError("the round table is gone"));
  }
}

int64_t RoundTable::Enter(int32_t worker, Callback done) {
  if (worker < 0 || worker >= options_.num_workers) {
    done(absl::InvalidArgumentError(
        absl::StrCat("worker must be 0 to ", options_.num_workers - 1, ", got ", worker)));
    return -1;
  }
  Calls calls;
  int64_t entry;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    entry = next_entry_++;
    const Clock::time_point now = Clock::now();
    if (waiting_.empty()) {
      closes_at_ = now + timeout_;
      ArmLocked();
    }
    live_.insert(worker);
    Waiting& place = waiting_[worker];
    if (place.done != nullptr) {
      wait_nanoseconds_ += NanosecondsSince(place.since);
      calls.push_back([worker, done = std::move(place.done)] {
        done(absl::CancelledError(
            absl::StrCat("worker ", worker, " entered again while it waited for a round")));
      });
    }
    place = {entry, now, std::move(done)};
    if (waiting_.size() == live_.size()) CloseLocked(/*by_timeout=*/false, &calls);
  }
  for (auto& call : calls) call();
  return entry;
}

void RoundTable::Cancel(int64_t entry) {
  Callback done;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto it = waiting_.begin(); it != waiting_.end(); ++it) {
      if (it->second.entry != entry) continue;
      wait_nanoseconds_ += NanosecondsSince(it->second.since);
      done = std::move(it->second.done);
      waiting_.erase(it);
      break;
    }
  }
  if (done != nullptr) done(absl::CancelledError("the step was cancelled"));
}

std::array<int64_t, RoundTable::kNumCounters> RoundTable::Counters() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return {next_round_,
          entered_,
          shrunk_,
          wait_nanoseconds_,
          static_cast<int64_t>(live_.size()),
          static_cast<int64_t>(waiting_.size())};
}

void RoundTable::CloseLocked(bool by_timeout, Calls* calls) {
  RoundPlace place;
  place.number = next_round_++;
  place.num_participants = waiting_.size();
  place.leads = true;
  live_.clear();
  for (auto& [worker, waiting] : waiting_) {
    live_.insert(worker);
    wait_nanoseconds_ += NanosecondsSince(waiting.since);
    calls->push_back([place, done = std::move(waiting.done)] { done(place); });
    place.leads = false;
  }
  waiting_.clear();
  entered_ += place.num_participants;
  shrunk_ += by_timeout;
}

void RoundTable::ArmLocked() {
  if (armed_) return;
  armed_ = true;
  Timer::Shared().CallAt(closes_at_, [table = weak_from_this()] {
    if (const auto held = table.lock()) held->OnTimer();
  });
}

void RoundTable::OnTimer() {
  Calls calls;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    armed_ = false;
    if (waiting_.empty()) return;
    if (Clock::now() < closes_at_) {
      ArmLocked();  // The round it was for has closed long ago; this is about another.
      return;
    }
    CloseLocked(/*by_timeout=*/true, &calls);
  }
  for (auto& call : calls) call();
}

}  // namespace amstf
