// Tests of the round table and of the state of a replica. Exit code 0 when all expectations hold.
#include <cmath>
#include <functional>
#include <map>
#include <mutex>
#include <random>
#include <thread>  // NOLINT: workers enter from many threads
#include <vector>

#include "amstf/cc/rounds/replica_state.h"
#include "amstf/cc/rounds/round_table.h"
#include "amstf/cc/rounds/rounds_testing.h"

namespace amstf {
namespace {

constexpr double kNever = 600000;
constexpr double kSoon = 300;  // Long enough for a few calls on a busy machine.

using Place = absl::StatusOr<RoundPlace>;

std::shared_ptr<RoundTable> Table(int workers, double timeout_ms = kNever) {
  return RoundTable::Make({workers, timeout_ms});
}

// The counters but for the time.
std::vector<int64_t> Counts(const RoundTable& table) {
  const auto counters = table.Counters();
  return {counters[0], counters[1], counters[2], counters[4], counters[5]};
}

void ExpectPlace(Answer<Place>& answer, int64_t number, int participants, bool leads) {
  const Place place = answer.Get();
  Expect(place.ok() && place->number == number && place->num_participants == participants &&
             place->leads == leads,
         "wanted round " + std::to_string(number) + " of " + std::to_string(participants) +
             (leads ? " leading" : " following") + ", got " + place.status().ToString());
}

void ARoundIsCompleteWhenAllHaveEntered() {
  auto table = Table(3);
  for (int64_t round = 0; round < 3; ++round) {
    Answer<Place> answers[3];
    for (int worker : {2, 0, 1}) {
      Expect(!answers[2].Ready() && !answers[0].Ready(), "waits for the others");
      table->Enter(worker, answers[worker].Setter());
    }
    for (int worker : {0, 1, 2}) ExpectPlace(answers[worker], round, 3, worker == 0);
  }
  Expect(Counts(*table) == std::vector<int64_t>({3, 9, 0, 3, 0}), "counters");
  Expect(table->Counters()[3] > 0, "time waited");
}

void OneWorkerDoesNotWait() {
  auto table = Table(1);
  for (int64_t round = 0; round < 3; ++round) {
    Answer<Place> answer;
    table->Enter(0, answer.Setter());
    Expect(answer.Ready(), "at once");
    ExpectPlace(answer, round, 1, true);
  }
}

void TheTimeoutDropsWhoDidNotEnterAndWhoEntersIsBack() {
  auto table = Table(3, kSoon);
  Answer<Place> first, second;
  table->Enter(2, first.Setter());
  table->Enter(1, second.Setter());
  ExpectPlace(first, 0, 2, false);
  ExpectPlace(second, 0, 2, true);
  Expect(Counts(*table) == std::vector<int64_t>({1, 2, 1, 2, 0}), "worker 0 is not live");

  Answer<Place> third, fourth;
  table->Enter(1, third.Setter());
  Expect(!third.Ready(), "waits for worker 2");
  table->Enter(2, fourth.Setter());
  Expect(fourth.Ready(), "nobody waits for worker 0");
  ExpectPlace(third, 1, 2, true);
  ExpectPlace(fourth, 1, 2, false);

  Answer<Place> back, fifth, sixth;
  table->Enter(1, fifth.Setter());
  table->Enter(0, back.Setter());
  Expect(Counts(*table) == std::vector<int64_t>({2, 4, 1, 3, 2}), "worker 0 is live again");
  Expect(!back.Ready(), "and waits for worker 2");
  table->Enter(2, sixth.Setter());
  ExpectPlace(back, 2, 3, true);
  ExpectPlace(fifth, 2, 3, false);
  ExpectPlace(sixth, 2, 3, false);
}

void AWorkerThatEntersAgainReplacesItself() {
  auto table = Table(2);
  Answer<Place> given_up, retried, other;
  const int64_t entry = table->Enter(1, given_up.Setter());
  table->Enter(1, retried.Setter());
  ExpectError(given_up.Get().status(), absl::StatusCode::kCancelled,
              "worker 1 entered again while it waited for a round");
  Expect(!retried.Ready(), "waits for worker 0");
  table->Cancel(entry);
  Expect(!retried.Ready(), "the end of the old step is none of the new one");
  table->Enter(0, other.Setter());
  ExpectPlace(retried, 0, 2, false);
  ExpectPlace(other, 0, 2, true);
}

void ACancelledEntryDoesNotTakePart() {
  auto table = Table(2);
  Answer<Place> cancelled, other, again;
  const int64_t entry = table->Enter(0, cancelled.Setter());
  table->Cancel(entry);
  ExpectError(cancelled.Get().status(), absl::StatusCode::kCancelled, "the step was cancelled");
  table->Enter(1, other.Setter());
  Expect(!other.Ready(), "worker 0 is live, though it does not wait");
  const int64_t last = table->Enter(0, again.Setter());
  ExpectPlace(other, 0, 2, false);
  ExpectPlace(again, 0, 2, true);
  for (int64_t done : {entry, last, int64_t{-1}, int64_t{99}}) table->Cancel(done);
  Expect(Counts(*table) == std::vector<int64_t>({1, 2, 0, 2, 0}), "counters");
}

void AnEmptyRoundDoesNotClose() {
  auto table = Table(2, 20);
  Answer<Place> cancelled, alone;
  table->Cancel(table->Enter(0, cancelled.Setter()));
  std::this_thread::sleep_for(std::chrono::milliseconds(60));
  Expect(Counts(*table) == std::vector<int64_t>({0, 0, 0, 2, 0}), "no round of nobody");
  table->Enter(1, alone.Setter());
  ExpectPlace(alone, 0, 1, true);
}

void WrongWorkersAndOptionsAreRefused() {
  for (int worker : {-1, 2}) {
    Answer<Place> answer;
    Table(2)->Enter(worker, answer.Setter());
    ExpectError(answer.Get().status(), absl::StatusCode::kInvalidArgument,
                "worker must be 0 to 1, got " + std::to_string(worker));
  }
  ExpectError(RoundTableOptions({0, 1}).Validate(), absl::StatusCode::kInvalidArgument,
              "num_workers must be at least 1, got 0");
  for (double timeout : {0.0, -1.0, 1e12, double{NAN}}) {
    ExpectError(RoundTableOptions({1, timeout}).Validate(), absl::StatusCode::kInvalidArgument,
                "worker_timeout_ms must be more than 0 milliseconds and at most a year, got ");
  }
  Expect(RoundTableOptions({1, 0.5}).Validate().ok(), "half a millisecond");
}

void ATableThatGoesLeavesNobodyWaiting() {
  auto table = Table(2);
  Answer<Place> answer;
  table->Enter(0, answer.Setter());
  table.reset();
  ExpectError(answer.Get().status(), absl::StatusCode::kCancelled, "the round table is gone");
}

void CallbacksMayEnterAgain() {
  auto table = Table(1);
  std::vector<int64_t> rounds;
  std::function<void(const Place&)> next = [&](const Place& place) {
    rounds.push_back(place->number);
    if (rounds.size() < 5) table->Enter(0, next);
  };
  table->Enter(0, next);
  Expect(rounds == std::vector<int64_t>({0, 1, 2, 3, 4}), "a callback under no lock");
}

void ManyThreadsGoInStep() {
  constexpr int kWorkers = 8, kRounds = 200;
  auto table = Table(kWorkers);
  std::vector<std::thread> threads;
  for (int worker = 0; worker < kWorkers; ++worker) {
    threads.emplace_back([&table, worker] {
      for (int64_t round = 0; round < kRounds; ++round) {
        Answer<Place> answer;
        table->Enter(worker, answer.Setter());
        ExpectPlace(answer, round, kWorkers, worker == 0);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  Expect(Counts(*table) == std::vector<int64_t>({kRounds, kRounds * kWorkers, 0, kWorkers, 0}),
         "counters");
}

// Workers that stop for longer than the timeout, give up and come back: whatever happens, a round
// is told alike to all who are in it.
void RoundsStayWholeWhateverWorkersDo() {
  constexpr int kWorkers = 6, kSteps = 150;
  auto table = Table(kWorkers, 2);
  std::mutex mutex;
  std::map<int64_t, std::map<int, RoundPlace>> rounds;  // By number and worker.
  int64_t entered = 0;
  std::vector<std::thread> threads;
  for (int worker = 0; worker < kWorkers; ++worker) {
    threads.emplace_back([&, worker] {
      std::mt19937 random(worker);
      for (int step = 0; step < kSteps; ++step) {
        if (random() % 16 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(4));
        Answer<Place> answer;
        const int64_t entry = table->Enter(worker, answer.Setter());
        if (random() % 4 == 0) table->Cancel(entry);
        const Place place = answer.Get();
        if (!place.ok()) {
          Expect(absl::IsCancelled(place.status()), place.status().ToString());
          continue;
        }
        std::lock_guard<std::mutex> lock(mutex);
        ++entered;
        Expect(rounds[place->number].emplace(worker, *place).second, "in a round once");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  int64_t number = 0;
  for (const auto& [told, places] : rounds) {
    Expect(told == number++, "no round is left out");
    for (const auto& [worker, place] : places) {
      Expect(place.num_participants == static_cast<int>(places.size()), "all were told");
      Expect(place.leads == (worker == places.begin()->first), "the lowest leads");
    }
  }
  const auto counters = table->Counters();
  Expect(counters[0] == number && counters[1] == entered && counters[2] > 0, "counters");
  Expect(counters[5] == 0, "nobody waits");
}

void ReplicasAreRefreshedForTheLeadersOfEveryKthRound() {
  for (int64_t k : {1, 2, 3, 7}) {
    ReplicaState state(k);
    for (int64_t round = 0; round < 20; ++round) {
      Expect(!state.BeginRound(false), "not for those who do not lead");
      Expect(state.BeginRound(true) == (round % k == 0), "refresh");
      Expect(!state.BeginRound(false), "nor do they count");
    }
  }
  Expect(ReplicaState::Validate(1).ok(), "every round");
  ExpectError(ReplicaState::Validate(0), absl::StatusCode::kInvalidArgument,
              "sync_every must be a number of rounds >= 1, got 0");
}

void GradientsAreHandedOverInEveryKthRound() {
  using Sums = std::vector<std::vector<float>>;
  for (int64_t k : {1, 2, 5}) {
    ReplicaState state(k);
    std::vector<float> sum(3);
    for (int64_t round = 0; round < 12; ++round) {
      const std::vector<float> first = {1.0f * round, -2.0f, 0.5f};
      for (int i = 0; i < 3; ++i) sum[i] += first[i];
      const auto sums = state.Accumulate({first, absl::Span<const float>(first.data(), 1), {}});
      if (round % k == k - 1) {
        Expect(sums.ok() && *sums == Sums({sum, {sum[0]}, {}}), "the sums");
        sum = {0, 0, 0};
      } else {
        Expect(sums.ok() && sums->empty(), "nothing yet");
      }
    }
  }
}

void GradientsThatDifferFromTheKeptAreRefusedAndChangeNothing() {
  const std::vector<float> two = {1, 2}, three = {1, 2, 3};
  ReplicaState state(2);
  Expect(state.Accumulate({two, three})->empty(), "kept");
  ExpectError(state.Accumulate({two}).status(), absl::StatusCode::kInvalidArgument,
              "got 1 gradients, wanted 2 as in the rounds before");
  ExpectError(state.Accumulate({two, two}).status(), absl::StatusCode::kInvalidArgument,
              "gradient 1 has 2 elements, wanted 3 as in the rounds before");
  const auto sums = state.Accumulate({two, three});
  Expect(sums.ok() && *sums == std::vector<std::vector<float>>({{2, 4}, {2, 4, 6}}), "the sums");
  Expect(state.Accumulate({three})->empty(), "after an exchange others may come");
}

void NoGradientIsLostBetweenThreads() {
  constexpr int kThreads = 8, kCalls = 150;
  ReplicaState state(7);
  std::atomic<int64_t> refreshes{0}, total{0}, exchanges{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&] {
      const std::vector<float> gradient = {1, 2};
      for (int call = 0; call < kCalls; ++call) {
        refreshes += state.BeginRound(true);
        const auto sums = state.Accumulate({gradient});
        if (sums->empty()) continue;
        ++exchanges;
        total += static_cast<int64_t>((*sums)[0][0] + (*sums)[0][1]);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  constexpr int64_t kExchanges = kThreads * kCalls / 7;
  Expect(refreshes == (kThreads * kCalls + 6) / 7, "refreshes");
  Expect(exchanges == kExchanges && total == kExchanges * 7 * 3, "exchanges");
}

}  // namespace
}  // namespace amstf

int main() {
  amstf::ARoundIsCompleteWhenAllHaveEntered();
  amstf::OneWorkerDoesNotWait();
  amstf::TheTimeoutDropsWhoDidNotEnterAndWhoEntersIsBack();
  amstf::AWorkerThatEntersAgainReplacesItself();
  amstf::ACancelledEntryDoesNotTakePart();
  amstf::AnEmptyRoundDoesNotClose();
  amstf::WrongWorkersAndOptionsAreRefused();
  amstf::ATableThatGoesLeavesNobodyWaiting();
  amstf::CallbacksMayEnterAgain();
  amstf::ManyThreadsGoInStep();
  amstf::RoundsStayWholeWhateverWorkersDo();
  amstf::ReplicasAreRefreshedForTheLeadersOfEveryKthRound();
  amstf::GradientsAreHandedOverInEveryKthRound();
  amstf::GradientsThatDifferFromTheKeptAreRefusedAndChangeNothing();
  amstf::NoGradientIsLostBetweenThreads();
  return amstf::Finish();
}
