// Tests of requests that end too soon, hang or come too late, and of many threads at once. Exit
// code 0 when all expectations hold.
#include <chrono>
#include <random>
#include <thread>  // NOLINT: the requests of real servers come from many threads

#include "amstf/cc/meeting/meeting_testing.h"

namespace amstf {
namespace {

using Ids = std::vector<int64_t>;

constexpr absl::StatusCode kCancelled = absl::StatusCode::kCancelled;

// A closed round of three: worker 0 leads, each asks for 10 + its index, D = 1.
struct Three {
  explicit Three(double worker_timeout_ms = kForeverMs)
      : meeting(Open(Merge::kSync, 3, 0, worker_timeout_ms)),
        leader(meeting, 0, {10}, {5, 3, true}),
        one(meeting, 1, {11}, {5, 3, false}),
        two(meeting, 2, {12}, {5, 3, false}) {}

  // To where all have their rows.
  Three& Shared() {
    leader.Share({1, 2, 3}, 1);
    ExpectEqual(*one.Share({}, 1).rows(), {2}, "rows of one");
    ExpectEqual(*two.Share({}, 1).rows(), {3}, "rows of two");
    return *this;
  }

  // Closes the books.
  void EndAndExpect(int64_t gone, int64_t late, const std::string& what) {
    for (Step* step : {&leader, &one, &two}) {
      step->End();
      for (const auto& borrowed : step->borrowed()) Expect(borrowed.expired(), what + ": let go");
    }
    ExpectCounted(meeting, kGone, gone, what + ": gone");
    ExpectCounted(meeting, kLate, late, what + ": late");
    ExpectCounted(meeting, kOpenRequests, 0, what + ": open");
  }

  std::shared_ptr<Meeting> meeting;
  Step leader, one, two;
};

void AnEvaluationLeavesNothing() {
  Three round;
  round.Shared();
  Expect(round.leader.borrowed()[0].expired(), "the embeddings, once all have taken them");
  round.EndAndExpect(0, 0, "evaluation");
  ExpectCounted(round.meeting, kRounds, 1, "evaluation: rounds");
}

void AStepThatIsCancelledWaitsNoLonger() {
  Three round;
  Step waits(round.meeting, 0, {1}, {6, 2, true});
  waits.request().Cancel();
  ExpectError(waits.Join(), kCancelled, "was cancelled");
  ExpectError(waits.Share({}, 1).rows().status(), kCancelled, "was cancelled");
  ExpectError(waits.JoinGradient({}, 1).sum().status(), kCancelled, "was cancelled");
  // It was there: nobody waits until it would be lost. But it does not lead, and asks for nothing.
  Step other(round.meeting, 1, {2}, {6, 2, false});
  Expect(other.has_joined() && other.leads(), "the other leads");
  ExpectEqual(other.union_ids(), {2}, "union");

  round.one.Share({}, 1).request().Cancel();
  ExpectError(round.one.rows().status(), kCancelled, "was cancelled");
  round.two.Share({}, 1);
  round.leader.Share({1, 2, 3}, 1);
  ExpectEqual(*round.two.rows(), {3}, "the others go on");
  round.leader.JoinGradient({1}, 1).request().Cancel();
  ExpectError(round.leader.sum().status(), kCancelled, "was cancelled");
  waits.End();
  other.Share({7}, 1).End();
  // Two that waited, the leader that did not get its sum, and two, whose gradient it waited for.
  round.EndAndExpect(4, 0, "cancelled");
}

void CancelledBeforeItJoins() {
  const auto meeting = Open(Merge::kSync, 2);
  for (const SyncRound& sync : {SyncRound{1, 2, true}, SyncRound{}}) {
    const auto request = meeting->NewRequest(0, {1});
    request->Cancel();
    int calls = 0;
    meeting->Join(request.get(), sync, [&](const absl::Status& status) {
      ++calls;
      ExpectError(status, kCancelled, "was cancelled");
    });
    Expect(calls == 1, "called once");
  }
}

void AllOfARoundAreCancelled() {
  const auto meeting = Open(Merge::kAsync, 2, 200);
  {
    Step alone(meeting, 0, {1});
    alone.request().Cancel();
    std::this_thread::sleep_for(std::chrono::milliseconds(400));
    ExpectError(alone.Join(), kCancelled, "was cancelled");
    ExpectCounted(meeting, kRounds, 0, "no round");
  }
  ExpectCounted(meeting, kOpenRequests, 0, "open");
}

void TheLeaderIsGoneBeforeItShared() {
  Three round;
  round.one.Share({}, 1);
  round.leader.End();
  // TensorFlow's coordinator runs a step again if the error is Cancelled and names a task.
  const std::string wanted =
      "in the meeting 'test' on /job:ps/task:3 the request of worker 0, which embeds the images of "
      "this round, is gone and has not shared them; this step runs again";
  ExpectError(round.one.rows().status(), kCancelled, wanted);
  ExpectError(round.two.Share({}, 1).rows().status(), kCancelled, wanted);
  round.EndAndExpect(1, 0, "leader gone before sharing");
}

void TheLeaderHangsBeforeItShared() {
  Three round(30);
  ExpectError(round.one.Share({}, 1).rows().status(), kCancelled, "worker 0, which embeds");
  ExpectError(round.two.Share({}, 1).rows().status(), kCancelled, "hangs");
  ExpectEqual(*round.leader.Share({1, 2, 3}, 1).rows(), {1}, "the leader is back");
  round.one.End();
  round.two.End();
  ExpectEqual(*round.leader.JoinGradient({1}, 1).sum(), {1, 0, 0}, "sum");
  round.EndAndExpect(0, 0, "leader hangs");
}

void AFollowerIsGoneBeforeItsGradient() {
  Three round;
  round.Shared();
  round.leader.JoinGradient({1}, 1);
  round.one.JoinGradient({2}, 1).End();
  Expect(!round.leader.has_sum(), "waits for two");
  round.two.End();
  Expect(round.leader.has_sum(), "waits no longer");
  ExpectEqual(*round.leader.sum(), {0.5f, 1, 0}, "mean over those that brought one");
  round.EndAndExpect(1, 0, "follower gone");
}

void AFollowerIsGoneBeforeItTookItsRows() {
  Three round;
  round.two.End();
  round.leader.Share({1, 2, 3}, 1).JoinGradient({1}, 1);
  round.one.Share({}, 1).JoinGradient({2}, 1);
  ExpectEqual(*round.leader.sum(), {0.5f, 1, 0}, "mean over those that brought one");
  round.EndAndExpect(1, 0, "follower gone early");
}

void TheLeaderIsGoneBeforeItsGradient() {
  Three round;
  round.Shared();
  round.one.JoinGradient({2}, 1);
  round.leader.End();
  ExpectEqual(*round.one.sum(), {}, "went on at once");
  ExpectEqual(*round.two.JoinGradient({3}, 1).sum(), {}, "goes on at once");
  round.EndAndExpect(1, 2, "leader gone before its gradient");
}

void AFollowerHangsBeforeItsGradient() {
  Three round(60);
  round.Shared();
  round.leader.JoinGradient({1}, 1);
  round.one.JoinGradient({2}, 1);
  ExpectEqual(*round.leader.sum(), {0.5f, 1, 0}, "mean over those that brought one");
  ExpectEqual(*round.two.JoinGradient({3}, 1).sum(), {}, "too late, but goes on");
  round.EndAndExpect(0, 1, "follower hangs");
}

void WithAMeetingItsOpenRoundsClose() {
  auto meeting = Open(Merge::kSync, 2);
  Step step(meeting, 1, {4}, {0, 2, false});
  meeting = nullptr;
  Expect(step.has_joined() && step.leads(), "goes on alone");
  ExpectEqual(*step.Share({5}, 1).rows(), {5}, "rows");
  ExpectEqual(*step.JoinGradient({6}, 1).sum(), {6}, "sum");
}

constexpr int kWorkers = 5;
constexpr int kSteps = 150;
constexpr int64_t kWidth = 3;

// What the threads of a stress test found out together.
struct Totals {
  std::atomic<int64_t> brought[40] = {};  // Gradients by id, in whole numbers: exact in floats.
  std::atomic<int64_t> summed[40] = {};
  std::atomic<int> steps_done{0};
};

float Embedding(int64_t id, int64_t column) { return id * 10 + column; }

// One step of a worker; ends it early after `parts` of 3 parts. False: it has to run again.
bool RunStep(const std::shared_ptr<Meeting>& meeting, int worker, const SyncRound& sync, int parts,
             std::mt19937* random, Totals* totals) {
  Ids ids((*random)() % 12);
  for (int64_t& id : ids) id = (*random)() % 40;
  Step step(meeting, worker, ids, sync);
  if (parts == 0) return true;
  Expect(step.Join().ok(), "join");
  const Ids asked = step.union_ids();
  Floats embeddings;
  for (int64_t id : asked) {
    for (int64_t j = 0; j < kWidth; ++j) embeddings.push_back(Embedding(id, j));
  }
  if (parts == 1) return true;
  const auto rows = step.Share(embeddings, kWidth).rows();
  if (!rows.ok()) {
    ExpectError(rows.status(), kCancelled, "runs again");
    return false;
  }
  for (int64_t i = 0; i < ids.size() * kWidth; ++i) {
    Expect((*rows)[i] == Embedding(ids[i / kWidth], i % kWidth), "the row of an id");
  }
  if (parts == 2) return true;
  Floats gradient(ids.size() * kWidth);
  for (int64_t i = 0; i < gradient.size(); ++i) {
    gradient[i] = (*random)() % 100;
    totals->brought[ids[i / kWidth]] += gradient[i];
  }
  const auto sum = step.JoinGradient(gradient, kWidth).sum();
  Expect(sum.ok(), "sum");
  Expect(sum->size() == (step.leads() ? asked.size() * kWidth : 0), "size of the sum");
  for (int64_t i = 0; i < sum->size(); ++i) totals->summed[asked[i / kWidth]] += (*sum)[i];
  ++totals->steps_done;
  return true;
}

// What kind of deaths a stress test has: in one of so many steps, or never.
void ManyThreads(Merge merge, int one_dies_of, const std::string& what) {
  const bool is_sync = merge == Merge::kSync;
  const auto meeting = Open(merge, kWorkers, is_sync ? 0 : 2, one_dies_of ? 20 : kForeverMs);
  Totals totals;
  std::vector<std::thread> threads;
  for (int worker = 0; worker < kWorkers; ++worker) {
    threads.emplace_back([&, worker] {
      std::mt19937 random(worker);
      for (int number = 0; number < kSteps; ++number) {
        const SyncRound sync{is_sync ? number : -1, kWorkers, worker == number % kWorkers};
        const int parts = one_dies_of && random() % one_dies_of == 0 ? random() % 3 : 3;
        (void)RunStep(meeting, worker, sync, parts, &random, &totals);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  ExpectCounted(meeting, kOpenRequests, 0, what + ": open");
  ExpectCounted(meeting, kRequests, kWorkers * kSteps, what + ": requests");
  if (one_dies_of) {
    Expect(totals.steps_done > 0 && Counted(meeting, kGone) > 0, what + ": deaths");
    return;
  }
  ExpectCounted(meeting, kGone, 0, what + ": gone");
  ExpectCounted(meeting, kLate, 0, what + ": late");
  Expect(totals.steps_done == kWorkers * kSteps, what + ": steps");
  if (is_sync) {
    ExpectCounted(meeting, kRounds, kSteps, what + ": rounds");
    ExpectCounted(meeting, kMerged, kWorkers * kSteps, what + ": merged");
    return;
  }
  for (int id = 0; id < 40; ++id) {
    Expect(totals.brought[id] == totals.summed[id], what + ": no gradient is lost");
  }
  Expect((Counted(meeting, kMerged) > 0) == (merge == Merge::kAsync), what + ": merged");
}

}  // namespace
}  // namespace amstf

int main() {
  amstf::AnEvaluationLeavesNothing();
  amstf::AStepThatIsCancelledWaitsNoLonger();
  amstf::CancelledBeforeItJoins();
  amstf::AllOfARoundAreCancelled();
  amstf::TheLeaderIsGoneBeforeItShared();
  amstf::TheLeaderHangsBeforeItShared();
  amstf::AFollowerIsGoneBeforeItsGradient();
  amstf::AFollowerIsGoneBeforeItTookItsRows();
  amstf::TheLeaderIsGoneBeforeItsGradient();
  amstf::AFollowerHangsBeforeItsGradient();
  amstf::WithAMeetingItsOpenRoundsClose();
  amstf::ManyThreads(amstf::Merge::kNone, 0, "none");
  amstf::ManyThreads(amstf::Merge::kAsync, 0, "async");
  amstf::ManyThreads(amstf::Merge::kSync, 0, "sync");
  amstf::ManyThreads(amstf::Merge::kAsync, 6, "async with deaths");
  amstf::ManyThreads(amstf::Merge::kSync, 6, "sync with deaths");
  return amstf::Finish();
}
