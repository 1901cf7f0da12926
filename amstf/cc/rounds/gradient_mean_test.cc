// Tests of the mean of the gradients of a round. Exit code 0 when all expectations hold.
#include "amstf/cc/rounds/gradient_mean.h"

#include <algorithm>
#include <random>
#include <string>
#include <thread>  // NOLINT: workers hand in from many threads
#include <utility>
#include <vector>

#include "amstf/cc/rounds/rounds_testing.h"

namespace amstf {
namespace {

constexpr double kNever = 600000;
constexpr double kSoon = 100;

using Parts = absl::StatusOr<GradientParts>;
using Floats = std::vector<float>;
using Rows = std::vector<int64_t>;
using Counts = std::vector<int64_t>;

std::atomic<int64_t> parts_kept{0};

GradientPart Dense(int32_t worker, const Floats& values, const Rows& shape) {
  ++parts_kept;
  const std::shared_ptr<const Floats> owner(new Floats(values), [](const Floats* floats) {
    delete floats;
    --parts_kept;
  });
  GradientPart part;
  part.worker = worker;
  part.shape = shape;
  part.values = *owner;
  part.owner = owner;
  return part;
}

GradientPart Dense(int32_t worker, const Floats& values) {
  return Dense(worker, values, {static_cast<int64_t>(values.size())});
}

// Rows of `width`.
GradientPart Sparse(int32_t worker, const Rows& rows, const Floats& values, int64_t width = 1) {
  GradientPart part = Dense(worker, values, {width});
  part.is_sparse = true;
  part.rows = rows;
  return part;
}

Floats MeanOf(const GradientParts& parts) {
  Floats mean(parts[0].values.size());
  MeanOfDense(parts, 0, mean.size(), mean.data());
  return mean;
}

std::pair<Rows, Floats> SparseMeanOf(const GradientParts& parts) {
  const MeanOfSparse mean(parts);
  Floats values(mean.rows().size() * mean.width());
  mean.Write(0, mean.rows().size(), values.data());
  return {mean.rows(), values};
}

// Means, gradients, shrunk, dropped, late, open.
Counts CountsOf(const GradientMean& mean) {
  const auto counters = mean.Counters();
  return {counters[0], counters[1], counters[2], counters[3], counters[4], counters[6]};
}

// Those who are to get nothing, and at once.
void ExpectNone(Answer<Parts>& answer, const std::string& who) {
  Expect(answer.Ready(), who + " does not wait");
  const Parts parts = answer.Get();
  Expect(parts.ok() && parts->empty(), who + " gets nothing: " + parts.status().ToString());
}

void Follow(GradientMean& mean, int64_t round, int32_t participants, GradientPart part) {
  Answer<Parts> answer;
  mean.Contribute({round, participants, false}, std::move(part), answer.Setter());
  ExpectNone(answer, "a follower");
}

int64_t Lead(GradientMean& mean, int64_t round, int32_t participants, GradientPart part,
             Answer<Parts>& answer) {
  return mean.Contribute({round, participants, true}, std::move(part), answer.Setter());
}

void WaitUntilNoRoundIsOpen(const GradientMean& mean) {
  while (mean.Counters()[6] > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

void TheLeaderGetsTheMeanInAnyOrderOfArrival() {
  // In another order than that of the workers the sum would be 1 or 2, not 0.
  const std::vector<Floats> gradients = {{1e8f, 3}, {1, 3}, {-1e8f, 3}, {0.0f, -5}};
  std::vector<int> order = {0, 1, 2, 3};
  auto mean = GradientMean::Make(kNever);
  int64_t round = 0;
  do {
    Answer<Parts> answer;
    for (int worker : order) {
      if (worker == 0) {
        Lead(*mean, round, 4, Dense(worker, gradients[worker]), answer);
      } else {
        Follow(*mean, round, 4, Dense(worker, gradients[worker]));
      }
    }
    const Parts parts = answer.Get();
    Expect(parts.ok() && MeanOf(*parts) == Floats({0, 1}), "the mean");
    ++round;
  } while (std::next_permutation(order.begin(), order.end()));
  Expect(CountsOf(*mean) == Counts({24, 96, 0, 0, 0, 0}), "counters");
}

void RowsOfSparseGradientsAreSummedOncePerRow() {
  auto mean = GradientMean::Make(kNever);
  Answer<Parts> answer;
  Lead(*mean, 0, 3, Sparse(0, {7, 2, 7}, {1, 2, 3, 4, 5, 6}, 2), answer);
  Follow(*mean, 0, 3, Sparse(2, {9, 2}, {30, 0, 3, 3}, 2));
  Follow(*mean, 0, 3, Sparse(1, {}, {}, 2));
  const auto [rows, values] = SparseMeanOf(*answer.Get());
  Expect(rows == Rows({2, 7, 9}), "each row once, ascending");
  Expect(values == Floats({2, 7 / 3.0f, 2, 8 / 3.0f, 10, 0}), "zero where a row was not touched");

  Answer<Parts> none;
  Lead(*mean, 1, 2, Sparse(0, {}, {}, 2), none);
  Follow(*mean, 1, 2, Sparse(1, {}, {}, 2));
  Expect(SparseMeanOf(*none.Get()) == std::make_pair(Rows(), Floats()), "no rows");
}

void TheOrderOfSparseSumsIsThatOfTheWorkers() {
  const std::vector<Floats> gradients = {{1e8f}, {1}, {-1e8f}};
  for (const std::vector<int>& order : {std::vector<int>{0, 1, 2}, {2, 1, 0}, {2, 0, 1}}) {
    auto mean = GradientMean::Make(kNever);
    Answer<Parts> answer;
    for (int worker : order) {
      GradientPart part = Sparse(worker, {5}, gradients[worker]);
      if (worker == 0) {
        Lead(*mean, 0, 3, std::move(part), answer);
      } else {
        Follow(*mean, 0, 3, std::move(part));
      }
    }
    Expect(SparseMeanOf(*answer.Get()).second == Floats({0}), "the sum");
  }
}

void ALongMeanIsTheSameInPieces() {
  std::mt19937 random(1);
  GradientParts parts;
  for (int worker = 0; worker < 3; ++worker) {
    Floats values(5001);
    for (float& value : values) value = static_cast<int>(random() % 2000) - 1000;
    parts.push_back(Dense(worker, values));
  }
  Floats wanted(5001), pieces(5001);
  for (size_t i = 0; i < wanted.size(); ++i) {
    wanted[i] = (parts[0].values[i] + parts[1].values[i] + parts[2].values[i]) / 3;
  }
  for (int64_t begin : {0, 1, 1700, 5000}) {
    const int64_t end = begin == 0 ? 1 : begin == 1 ? 1700 : begin == 1700 ? 5000 : 5001;
    MeanOfDense(parts, begin, end, pieces.data());
  }
  Expect(MeanOf(parts) == wanted && pieces == wanted, "whole and in pieces");
}

void AloneOneGetsItsOwnAtOnce() {
  auto mean = GradientMean::Make(kNever);
  for (int64_t round : {-1, -1, 0, 1}) {
    Answer<Parts> answer;
    Lead(*mean, round, 1, Dense(round < 0 ? -1 : 3, {1, 2}), answer);
    Expect(answer.Ready() && MeanOf(*answer.Get()) == Floats({1, 2}), "its own");
  }
  Expect(CountsOf(*mean) == Counts({2, 2, 0, 0, 0, 0}), "counters");
}

void TheMeanIsOverThoseWhoCame() {
  auto mean = GradientMean::Make(kSoon);
  Answer<Parts> answer;
  Follow(*mean, 4, 3, Dense(2, {4}));
  Lead(*mean, 4, 3, Dense(0, {2}), answer);
  Expect(MeanOf(*answer.Get()) == Floats({3}), "without worker 1");
  Expect(CountsOf(*mean) == Counts({1, 2, 1, 0, 0, 0}), "a shrunk mean");
  Follow(*mean, 4, 3, Dense(1, {100}));
  Expect(CountsOf(*mean) == Counts({1, 2, 1, 0, 1, 0}), "a late gradient is not kept");
  Expect(parts_kept == 0, "nothing is kept");
}

void ARoundWithoutItsLeaderIsDropped() {
  auto mean = GradientMean::Make(kSoon);
  Follow(*mean, 0, 3, Dense(1, {1}));
  Follow(*mean, 0, 3, Dense(2, {2}));
  WaitUntilNoRoundIsOpen(*mean);
  Expect(CountsOf(*mean) == Counts({0, 0, 0, 1, 0, 0}) && parts_kept == 0, "dropped");
  Answer<Parts> late, next;
  Lead(*mean, 0, 3, Dense(0, {3}), late);
  ExpectNone(late, "a late leader");
  Lead(*mean, 1, 2, Dense(1, {1}), next);
  Follow(*mean, 1, 2, Dense(2, {2}));
  Expect(MeanOf(*next.Get()) == Floats({1.5}), "the next round");
  Expect(CountsOf(*mean) == Counts({1, 2, 0, 1, 1, 0}), "counters");
}

void ACancelledLeaderEndsItsRound() {
  auto mean = GradientMean::Make(kNever);
  Answer<Parts> cancelled, next;
  Follow(*mean, 0, 3, Dense(1, {1}));
  const int64_t entry = Lead(*mean, 0, 3, Dense(0, {1}), cancelled);
  mean->Cancel(entry);
  mean->Cancel(entry);
  ExpectError(cancelled.Get().status(), absl::StatusCode::kCancelled, "the step was cancelled");
  Follow(*mean, 0, 3, Dense(2, {1}));
  Expect(CountsOf(*mean) == Counts({0, 0, 0, 1, 1, 0}) && parts_kept == 0, "nothing is kept");
  const int64_t ended = Lead(*mean, 1, 1, Dense(0, {5}), next);
  mean->Cancel(ended);
  Expect(MeanOf(*next.Get()) == Floats({5}), "the end of a step cancels nothing");
}

void ALeaderThatComesTwiceReplacesItself() {
  auto mean = GradientMean::Make(kNever);
  Answer<Parts> first, second;
  Lead(*mean, 0, 2, Dense(0, {1}), first);
  Lead(*mean, 0, 2, Dense(0, {3}), second);
  ExpectError(first.Get().status(), absl::StatusCode::kCancelled, "handed in once more");
  Follow(*mean, 0, 2, Dense(1, {5}));
  Expect(MeanOf(*second.Get()) == Floats({4}), "the newer gradient");
}

void OlderRoundsEndWithANewerOne() {
  auto mean = GradientMean::Make(kNever);
  Answer<Parts> old, next;
  Follow(*mean, 2, 2, Dense(1, {1}));
  Lead(*mean, 3, 2, Dense(0, {1}), old);
  Follow(*mean, 4, 2, Dense(2, {2}));
  Follow(*mean, 5, 2, Dense(2, {9}));
  Lead(*mean, 4, 2, Dense(1, {4}), next);
  Expect(MeanOf(*next.Get()) == Floats({3}), "the newer one");
  ExpectNone(old, "the leader of an older one");
  Expect(CountsOf(*mean) == Counts({1, 2, 0, 2, 0, 1}), "round 5 is open");
}

void GradientsThatDifferInShapeFailTheirRound() {
  const std::vector<std::pair<GradientPart, std::string>> others = {
      {Dense(1, {1, 2}),
       "the gradient of worker 1 has shape [2], that of worker 0 in the same "
       "round 0 has shape [3, 2]; all workers must run the same model"},
      {Dense(1, {1, 2, 3, 4, 5, 6}, {6}), "has shape [6]"},
      {Dense(1, {1}, {}), "has shape []"},
      {Sparse(1, {0}, {1, 2}, 2), "has rows of shape [2]"}};
  for (const auto& [other, text] : others) {
    auto mean = GradientMean::Make(kNever);
    Answer<Parts> leader, follower, next;
    Lead(*mean, 0, 3, Dense(0, {1, 2, 3, 4, 5, 6}, {3, 2}), leader);
    mean->Contribute({0, 3, false}, other, follower.Setter());
    ExpectError(follower.Get().status(), absl::StatusCode::kInvalidArgument, text);
    ExpectError(leader.Get().status(), absl::StatusCode::kInvalidArgument, text);
    Follow(*mean, 0, 3, Dense(2, {1}));
    Lead(*mean, 1, 1, Dense(0, {1}), next);
    Expect(MeanOf(*next.Get()) == Floats({1}), "another round may have another shape");
    Expect(CountsOf(*mean) == Counts({1, 1, 0, 1, 1, 0}), "counters");
  }
}

void NonsenseIsRefused() {
  auto mean = GradientMean::Make(kNever);
  const auto refuse = [&](const RoundPlace& place, GradientPart part, const std::string& text) {
    Answer<Parts> answer;
    mean->Contribute(place, std::move(part), answer.Setter());
    ExpectError(answer.Get().status(), absl::StatusCode::kInvalidArgument, text);
  };
  refuse({0, 2, false}, Dense(0, {1, 2}, {3}),
         "the gradient has 2 elements, wanted 3 for shape [3]");
  refuse({-1, 1, true}, Sparse(0, {1, 2}, {1, 2}, 2), "2 elements, wanted 4 for rows of shape [2]");
  refuse({0, 0, true}, Dense(0, {1}), "num_participants must be at least 1, got 0");
  refuse({0, 2, true}, Dense(-1, {1}), "worker must be 0 or more in a synchronous round, got -1");
  Expect(CountsOf(*mean) == Counts({0, 0, 0, 0, 0, 0}), "nothing is kept");
}

void AMeanThatGoesLeavesNobodyWaiting() {
  auto mean = GradientMean::Make(kNever);
  Answer<Parts> answer;
  Lead(*mean, 0, 2, Dense(0, {1}), answer);
  mean.reset();
  ExpectError(answer.Get().status(), absl::StatusCode::kCancelled, "the gradient mean is gone");
}

Floats GradientOf(int64_t round, int worker) {
  return {0.37f * worker + round, round * 1.5f - worker, static_cast<float>(worker)};
}

// Workers in step at a table, with a dense and a sparse variable.
void ManyRoundsGiveThePlainMean() {
  constexpr int kWorkers = 5, kRounds = 150;
  auto table = RoundTable::Make({kWorkers, kNever});
  auto dense = GradientMean::Make(kNever);
  auto sparse = GradientMean::Make(kNever);
  std::vector<std::thread> threads;
  for (int worker = 0; worker < kWorkers; ++worker) {
    threads.emplace_back([&, worker] {
      for (int i = 0; i < kRounds; ++i) {
        Answer<absl::StatusOr<RoundPlace>> entered;
        table->Enter(worker, entered.Setter());
        const RoundPlace place = *entered.Get();
        const Floats gradient = GradientOf(place.number, worker);
        Answer<Parts> mean, rows;
        dense->Contribute(place, Dense(worker, gradient), mean.Setter());
        sparse->Contribute(place, Sparse(worker, {worker, 100, worker}, gradient), rows.Setter());
        const Parts dense_parts = mean.Get(), sparse_parts = rows.Get();
        if (!place.leads) {
          Expect(dense_parts->empty() && sparse_parts->empty(), "followers get nothing");
          continue;
        }
        Floats wanted(3), wanted_rows(kWorkers + 1);
        for (int other = 0; other < kWorkers; ++other) {
          const Floats theirs = GradientOf(place.number, other);
          for (int j = 0; j < 3; ++j) wanted[j] += theirs[j];
          wanted_rows[other] = (theirs[0] + theirs[2]) / kWorkers;
          wanted_rows[kWorkers] += theirs[1];
        }
        for (float& value : wanted) value /= kWorkers;
        wanted_rows[kWorkers] /= kWorkers;
        Expect(MeanOf(*dense_parts) == wanted, "the plain mean");
        Expect(
            SparseMeanOf(*sparse_parts) == std::make_pair(Rows({0, 1, 2, 3, 4, 100}), wanted_rows),
            "the plain mean of rows");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const Counts wanted = {kRounds, kRounds * kWorkers, 0, 0, 0, 0};
  Expect(CountsOf(*dense) == wanted && CountsOf(*sparse) == wanted, "counters");
}

// Leaders and followers that die, hang or are cancelled between entering and handing in.
void NothingIsKeptOfThoseWhoDie() {
  constexpr int kWorkers = 5, kSteps = 80;
  auto table = RoundTable::Make({kWorkers, 3});
  auto mean = GradientMean::Make(3);
  std::atomic<int64_t> answers{0}, means{0};
  std::vector<std::thread> threads;
  for (int worker = 0; worker < kWorkers; ++worker) {
    threads.emplace_back([&, worker] {
      std::mt19937 random(worker);
      for (int step = 0; step < kSteps; ++step) {
        Answer<absl::StatusOr<RoundPlace>> entered;
        table->Enter(worker, entered.Setter());
        const RoundPlace place = *entered.Get();
        const int fate = random() % 12;
        if (fate == 0) continue;
        if (fate == 1) std::this_thread::sleep_for(std::chrono::milliseconds(6));
        Answer<Parts> answer;
        const int64_t entry = mean->Contribute(
            place, Dense(worker, GradientOf(place.number, worker)), answer.Setter());
        if (fate == 2) mean->Cancel(entry);
        const Parts parts = answer.Get();
        ++answers;
        if (!parts.ok() || parts->empty()) {
          Expect(parts.ok() || (place.leads && absl::IsCancelled(parts.status())),
                 parts.status().ToString());
          continue;
        }
        ++means;
        Expect(place.leads, "only leaders get a mean");
        Floats wanted(3);
        int last = -1;
        for (const GradientPart& part : *parts) {
          Expect(part.worker > last, "in the order of the workers");
          last = part.worker;
          const Floats theirs = GradientOf(place.number, part.worker);
          for (int j = 0; j < 3; ++j) wanted[j] += theirs[j];
        }
        for (float& value : wanted) value /= parts->size();
        Expect(MeanOf(*parts) == wanted, "the mean of those who came");
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  WaitUntilNoRoundIsOpen(*mean);
  const auto counters = mean->Counters();
  Expect(counters[0] == means && counters[1] <= answers, "counters");
  Expect(counters[0] > 0 && counters[2] > 0 && counters[3] > 0 && counters[4] > 0, "all happened");
}

}  // namespace
}  // namespace amstf

int main() {
  amstf::TheLeaderGetsTheMeanInAnyOrderOfArrival();
  amstf::RowsOfSparseGradientsAreSummedOncePerRow();
  amstf::TheOrderOfSparseSumsIsThatOfTheWorkers();
  amstf::ALongMeanIsTheSameInPieces();
  amstf::AloneOneGetsItsOwnAtOnce();
  amstf::TheMeanIsOverThoseWhoCame();
  amstf::ARoundWithoutItsLeaderIsDropped();
  amstf::ACancelledLeaderEndsItsRound();
  amstf::ALeaderThatComesTwiceReplacesItself();
  amstf::OlderRoundsEndWithANewerOne();
  amstf::GradientsThatDifferInShapeFailTheirRound();
  amstf::NonsenseIsRefused();
  amstf::AMeanThatGoesLeavesNobodyWaiting();
  amstf::ManyRoundsGiveThePlainMean();
  amstf::NothingIsKeptOfThoseWhoDie();
  amstf::Expect(amstf::parts_kept == 0, "gradients are kept after all rounds");
  return amstf::Finish();
}
