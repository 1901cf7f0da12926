#include "amstf/cc/rounds/gradient_mean.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "amstf/cc/meeting/timeout.h"

namespace amstf {
namespace {

using Clock = Timer::Clock;

constexpr int64_t kBlock = 2048;  // Floats that stay in the nearest cache while parts are added.

int64_t NumElements(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (int64_t size : shape) elements *= size;
  return elements;
}

std::string Describe(const GradientPart& part) {
  return absl::StrCat(part.is_sparse ? "rows of shape [" : "shape [",
                      absl::StrJoin(part.shape, ", "), "]");
}

absl::Status Validate(const RoundPlace& place, const GradientPart& part) {
  const int64_t elements = NumElements(part.shape) * (part.is_sparse ? part.rows.size() : 1);
  if (static_cast<int64_t>(part.values.size()) != elements) {
    return absl::InvalidArgumentError(absl::StrCat("the gradient has ", part.values.size(),
                                                   " elements, wanted ", elements, " for ",
                                                   Describe(part)));
  }
  if (place.number < 0) return absl::OkStatus();
  if (place.num_participants < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_participants must be at least 1, got ", place.num_participants));
  }
  if (part.worker < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("worker must be 0 or more in a synchronous round, got ", part.worker));
  }
  return absl::OkStatus();
}

}  // namespace

std::shared_ptr<GradientMean> GradientMean::Make(double worker_timeout_ms) {
  return std::shared_ptr<GradientMean>(new GradientMean(worker_timeout_ms));
}

GradientMean::GradientMean(double worker_timeout_ms)
    : worker_timeout_ms_(worker_timeout_ms), timeout_(TimeoutDuration(worker_timeout_ms)) {}

GradientMean::~GradientMean() {
  for (auto& [number, round] : rounds_) {
    if (round.done != nullptr) round.done(absl::CancelledError("the gradient mean is gone"));
  }
}

int64_t GradientMean::Contribute(const RoundPlace& place, GradientPart part, Callback done) {
  const absl::Status status = Validate(place, part);
  if (!status.ok()) {
    done(status);
    return -1;
  }
  if (place.number < 0) {
    done(GradientParts{std::move(part)});
    return -1;
  }
  Calls calls;
  int64_t entry;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    entry = next_entry_++;
    ContributeLocked(place, std::move(part), std::move(done), entry, &calls);
  }
  Run(std::move(calls));
  return entry;
}

void GradientMean::ContributeLocked(const RoundPlace& place, GradientPart part, Callback done,
                                    int64_t entry, Calls* calls) {
  if (place.number <= newest_ended_) {
    ++late_;
    calls->push_back({std::move(done), GradientParts()});
    return;
  }
  const Clock::time_point now = Clock::now();
  const auto [it, is_new] = rounds_.try_emplace(place.number);
  Round& round = it->second;
  if (is_new) round.ends_at = now + timeout_;
  for (const auto& [worker, other] : round.parts) {
    if (other.is_sparse == part.is_sparse && other.shape == part.shape) continue;
    const absl::Status status = absl::InvalidArgumentError(
        absl::StrCat("the gradient of worker ", part.worker, " has ", Describe(part),
                     ", that of worker ", worker, " in the same round ", place.number, " has ",
                     Describe(other), "; all workers must run the same model"));
    calls->push_back({std::move(done), status});
    EndLocked(place.number, status, calls);
    return;
  }
  round.parts[part.worker] = std::move(part);
  if (place.leads) {
    AnswerLocked(&round, absl::CancelledError("the leader of the round handed in once more"),
                 calls);
    round.done = std::move(done);
    round.entry = entry;
    round.num_participants = place.num_participants;
    round.since = now;
    round.ends_at = now + timeout_;
  } else {
    calls->push_back({std::move(done), GradientParts()});
  }
  if (round.done != nullptr && round.parts.size() >= round.num_participants) {
    CompleteLocked(place.number, calls);
  } else {
    ArmLocked();
  }
}

void GradientMean::Cancel(int64_t entry) {
  Calls calls;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    for (const auto& [number, round] : rounds_) {
      if (round.done == nullptr || round.entry != entry) continue;
      EndLocked(number, absl::CancelledError("the step was cancelled"), &calls);
      break;
    }
  }
  Run(std::move(calls));
}

std::array<int64_t, GradientMean::kNumCounters> GradientMean::Counters() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return {means_,
          gradients_,
          shrunk_,
          dropped_,
          late_,
          wait_nanoseconds_,
          static_cast<int64_t>(rounds_.size())};
}

void GradientMean::CompleteLocked(int64_t number, Calls* calls) {
  Round& round = rounds_[number];
  GradientParts parts;
  for (auto& [worker, part] : round.parts) parts.push_back(std::move(part));
  ++means_;
  gradients_ += parts.size();
  shrunk_ += static_cast<int64_t>(parts.size()) < round.num_participants;
  AnswerLocked(&round, std::move(parts), calls);
  rounds_.erase(number);
  EndLocked(number, absl::OkStatus(), calls);
}

// Drops all rounds up to `number`, whose leader, if it waits, gets `status`; the leaders of the
// rounds before get nothing, because a newer mean has been, or is to be, applied.
void GradientMean::EndLocked(int64_t number, const absl::Status& status, Calls* calls) {
  while (!rounds_.empty() && rounds_.begin()->first <= number) {
    Round& round = rounds_.begin()->second;
    ++dropped_;
    if (rounds_.begin()->first == number && !status.ok()) {
      AnswerLocked(&round, status, calls);
    } else {
      AnswerLocked(&round, GradientParts(), calls);
    }
    rounds_.erase(rounds_.begin());
  }
  newest_ended_ = std::max(newest_ended_, number);
}

void GradientMean::AnswerLocked(Round* round, absl::StatusOr<GradientParts> result, Calls* calls) {
  if (round->done == nullptr) return;
  wait_nanoseconds_ +=
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - round->since).count();
  calls->push_back({std::exchange(round->done, nullptr), std::move(result)});
}

void GradientMean::ArmLocked() {
  if (armed_ || rounds_.empty()) return;
  Clock::time_point next = Clock::time_point::max();
  for (const auto& [number, round] : rounds_) next = std::min(next, round.ends_at);
  armed_ = true;
  Timer::Shared().CallAt(next, [mean = weak_from_this()] {
    if (const auto held = mean.lock()) held->OnTimer();
  });
}

void GradientMean::OnTimer() {
  Calls calls;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    armed_ = false;
    const Clock::time_point now = Clock::now();
    // Those due, oldest first; the end of one may be the end of older ones.
    std::vector<int64_t> due;
    for (const auto& [number, round] : rounds_) {
      if (round.ends_at <= now) due.push_back(number);
    }
    for (int64_t number : due) {
      if (rounds_[number].done != nullptr) {
        CompleteLocked(number, &calls);
      } else {
        EndLocked(number, absl::OkStatus(), &calls);
      }
    }
    ArmLocked();
  }
  Run(std::move(calls));
}

void GradientMean::Run(Calls calls) {
  for (Call& call : calls) call.done(std::move(call.result));
}

void MeanOfDense(const GradientParts& parts, int64_t begin, int64_t end, float* out) {
  const float count = parts.size();
  for (int64_t start = begin; start < end; start += kBlock) {
    const int64_t stop = std::min(start + kBlock, end);
    std::copy(parts[0].values.begin() + start, parts[0].values.begin() + stop, out + start);
    for (size_t part = 1; part < parts.size(); ++part) {
      const float* values = parts[part].values.data();
      for (int64_t i = start; i < stop; ++i) out[i] += values[i];
    }
    for (int64_t i = start; i < stop; ++i) out[i] /= count;
  }
}

MeanOfSparse::MeanOfSparse(const GradientParts& parts) : num_parts_(parts.size()) {
  if (!parts.empty()) width_ = NumElements(parts[0].shape);
  std::vector<std::pair<int64_t, const float*>> entries;
  for (const GradientPart& part : parts) {
    for (size_t i = 0; i < part.rows.size(); ++i) {
      entries.emplace_back(part.rows[i], part.values.data() + i * width_);
    }
  }
  // Stable: within a row the order stays that of the workers, and the sum the same each time.
  std::stable_sort(entries.begin(), entries.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  values_.reserve(entries.size());
  for (const auto& [row, values] : entries) {
    if (rows_.empty() || rows_.back() != row) {
      rows_.push_back(row);
      starts_.push_back(values_.size());
    }
    values_.push_back(values);
  }
  starts_.push_back(values_.size());
}

void MeanOfSparse::Write(int64_t begin, int64_t end, float* out) const {
  const float count = num_parts_;
  for (int64_t row = begin; row < end; ++row) {
    float* mean = out + row * width_;
    std::copy_n(values_[starts_[row]], width_, mean);
    for (int64_t at = starts_[row] + 1; at < starts_[row + 1]; ++at) {
      for (int64_t i = 0; i < width_; ++i) mean[i] += values_[at][i];
    }
    for (int64_t i = 0; i < width_; ++i) mean[i] /= count;
  }
}

}  // namespace amstf
