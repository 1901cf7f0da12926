// Tests of who meets whom, and of unions, rows and sums. Exit code 0 when all expectations hold.
#include "amstf/cc/meeting/meeting.h"

#include <chrono>
#include <limits>
#include <map>
#include <random>
#include <thread>  // NOLINT: the requests of real servers come from many threads

#include "amstf/cc/meeting/distinct_ids.h"
#include "amstf/cc/meeting/meeting_testing.h"

namespace amstf {
namespace {

using Ids = std::vector<int64_t>;

void DistinctIdsKeepTheOrderOfFirstAppearance() {
  std::mt19937_64 random(1);
  for (int64_t step : {int64_t{1}, int64_t{3}, int64_t{1024}, int64_t{1} << 32, int64_t{1} << 54}) {
    for (int count : {0, 1, 2, 3, 7, 1000}) {
      DistinctIds distinct(count);
      std::map<int64_t, int32_t> wanted;
      Ids order;
      for (int i = 0; i < count; ++i) {
        const int64_t id = static_cast<int64_t>(random() % 300) * step;
        if (wanted.emplace(id, wanted.size()).second) order.push_back(id);
        Expect(distinct.Add(id) == wanted[id], "position of an id");
      }
      ExpectEqual(distinct.Take(), order, "distinct ids");
    }
  }
  DistinctIds extreme(4);
  constexpr int64_t kLeast = std::numeric_limits<int64_t>::min();
  Expect(extreme.Add(kLeast) == 0 && extreme.Add(-1) == 1 && extreme.Add(0) == 2, "extremes");
  Expect(extreme.Add(kLeast) == 0, "an extreme again");
}

void OneRequestByItself() {
  for (Merge merge : {Merge::kNone, Merge::kAsync, Merge::kSync}) {
    const auto meeting = Open(merge, 1);
    {
      Step step(meeting, 0, {5, 3, 5}, {merge == Merge::kSync ? 0 : -1, 1, true});
      Expect(step.has_joined() && step.Join().ok() && step.leads(), "joins at once, and leads");
      ExpectEqual(step.union_ids(), {5, 3}, "union");
      ExpectEqual(*step.Share({1, 2, 3, 4}, 2).rows(), {1, 2, 3, 4, 1, 2}, "rows");
      ExpectEqual(*step.JoinGradient({1, 2, 3, 4, 5, 6}, 2).sum(), {6, 8, 3, 4}, "sum");
      ExpectCounted(meeting, kOpenRequests, 1, "open");
    }
    Ids counters = meeting->Counters();
    Expect(counters[kLeaderForwardNanoseconds] > 0, "time of the leader");
    counters[kWaitNanoseconds] = counters[kLeaderForwardNanoseconds] = 0;
    counters[kLeaderBackwardWaitNanoseconds] = 0;
    ExpectEqual(counters, {1, 3, 2, 1, 0, 0, 0, 3 * 8 + 6 * 4, 6 * 4, 0, 0, 0, 0, 0}, "counters");
  }
}

void WithoutMergingNobodyMeets() {
  const auto meeting = Open(Merge::kNone, 2);
  Step first(meeting, 0, {5, 3});
  Step second(meeting, 1, {3});
  Expect(first.leads() && second.leads(), "both lead");
  ExpectEqual(second.union_ids(), {3}, "union");
  Expect(first.Share({1, 2}, 1).request().is_union(), "nothing to gather");
  ExpectEqual(*first.rows(), {1, 2}, "rows");
  ExpectEqual(*first.JoinGradient({7, 8}, 1).sum(), {7, 8}, "sum");
}

void TwoRequestsByHand() {
  for (Merge merge : {Merge::kAsync, Merge::kSync}) {
    const auto meeting = Open(merge, 2);
    const float scale = merge == Merge::kSync ? 0.5f : 1;
    Step first(meeting, 1, {7, 5}, {4, 2, false});
    Expect(!first.has_joined(), "the first waits");
    Step second(meeting, 0, {5, 5, 9}, {4, 2, true});
    Expect(first.has_joined() && second.has_joined(), "all have come");
    Expect(first.leads() == (merge == Merge::kAsync) && second.leads() != first.leads(), "leads");
    Step& leader = first.leads() ? first : second;
    Step& follower = first.leads() ? second : first;
    ExpectEqual(leader.union_ids(), {5, 9, 7}, "by worker, then by place");
    ExpectEqual(follower.union_ids(), {}, "union of a follower");
    Expect(!follower.Share({}, 2, 2).has_rows(), "the follower waits for the embeddings");
    leader.Share({50, 51, 90, 91, 70, 71}, 2);
    ExpectEqual(*first.rows(), {70, 71, 50, 51}, "rows of worker 1");
    ExpectEqual(*second.rows(), {50, 51, 50, 51, 90, 91}, "rows of worker 0");
    ExpectCounted(meeting, kBytesOut, (first.leads() ? 4 * 4 + 6 * 2 : 4 * 2 + 6 * 4), "bytes");

    const Floats of_first = {1, 2, 3, 4};
    const Floats of_second = {10, 20, 30, 40, 50, 60};
    leader.JoinGradient(first.leads() ? of_first : of_second, 2);
    Expect(!leader.has_sum(), "the leader waits for the gradient");
    follower.JoinGradient(first.leads() ? of_second : of_first, 2);
    ExpectEqual(*follower.sum(), {}, "sum of a follower");
    ExpectEqual(*leader.sum(),
                {43 * scale, 64 * scale, 50 * scale, 60 * scale, 1 * scale, 2 * scale}, "sum");
    ExpectCounted(meeting, kRounds, 1, "rounds");
    ExpectCounted(meeting, kMerged, 2, "merged");
    ExpectCounted(meeting, kIdsDistinct, 3, "distinct");
    ExpectCounted(meeting, kBytesIn, 5 * 8 + 10 * 4, "bytes in");
  }
}

void EmptyRequestsAreFine() {
  for (const Ids& ids : {Ids{}, Ids{4}}) {
    const auto meeting = Open(Merge::kAsync, 2);
    Step first(meeting, 0, {});
    Step second(meeting, 1, ids);
    Expect(first.leads(), "it came first");
    ExpectEqual(first.union_ids(), ids, "union");
    const Floats all(ids.size() * 3, 2.5f);
    second.Share({}, 3);
    ExpectEqual(*first.Share(all, 3).rows(), {}, "no rows");
    ExpectEqual(*second.rows(), all, "rows");
    ExpectEqual(*second.JoinGradient(all, 3).sum(), {}, "sum of a follower");
    ExpectEqual(*first.JoinGradient({}, 3).sum(), all, "sum");
  }
}

void TheSumDoesNotDependOnWhoComesFirst() {
  // In this order 1e8 + 1 rounds to 1e8; in others it does not come to that.
  const Floats gradients = {1e8f, 1, -1e8f, 3};
  const std::vector<std::vector<int>> orders = {
      {0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3, 1}, {1, 3, 0, 2}};
  for (const auto& order : orders) {
    const auto meeting = Open(Merge::kSync, 4);
    std::vector<std::unique_ptr<Step>> steps(4);
    for (int worker : order) {
      steps[worker] =
          std::make_unique<Step>(meeting, worker, Ids{worker, 100}, SyncRound{0, 4, worker == 0});
    }
    ExpectEqual(steps[0]->union_ids(), {0, 100, 1, 2, 3}, "union");
    for (int worker : order) steps[worker]->Share(Floats(worker == 0 ? 5 : 0), 1);
    for (int worker : order) steps[worker]->JoinGradient({0, gradients[worker]}, 1);
    ExpectEqual(*steps[0]->sum(), {0, 0.75f, 0, 0, 0}, "mean");
  }
}

void AWorkersSecondRequestOpensTheNextRound() {
  for (Merge merge : {Merge::kAsync, Merge::kSync}) {
    const auto meeting = Open(merge, 2);
    Step a0(meeting, 0, {1}, {7, 2, true});
    Step a1(meeting, 0, {2}, {7, 2, true});
    Expect(!a0.has_joined() && !a1.has_joined(), "never with itself");
    Step b0(meeting, 1, {3}, {7, 2, false});
    Expect(a0.has_joined() && b0.has_joined() && !a1.has_joined(), "the first two meet");
    Step b1(meeting, 1, {4}, {7, 2, false});
    Expect(a1.has_joined() && b1.has_joined(), "the second two meet");
    ExpectEqual(a0.union_ids(), {1, 3}, "union of the first");
    ExpectEqual(a1.union_ids(), {2, 4}, "union of the second");
  }
}

void SynchronousRoundsGoByNumber() {
  const auto meeting = Open(Merge::kSync, 3);
  Step a(meeting, 0, {1}, {1, 2, false});
  Step b(meeting, 1, {2}, {2, 2, false});
  Step c(meeting, 2, {3}, {2, 2, true});
  Expect(!a.has_joined() && b.has_joined() && c.has_joined(), "round 2 is complete, 1 is not");
  Step d(meeting, 1, {4}, {1, 2, false});
  Expect(a.has_joined() && a.leads() && !d.leads(), "nobody is to lead: the first does");
  Expect(c.leads() && !b.leads(), "who is to lead leads");
  Step late(meeting, 2, {5}, {1, 2, true});
  Expect(late.has_joined() && late.leads(), "a late request does not wait");
  ExpectEqual(late.union_ids(), {5}, "and is by itself");
  Step e(meeting, 1, {4}, {1, 2, false});
  Step again(meeting, 2, {5}, {1, 2, true});
  Expect(e.has_joined() && again.leads(), "but is in time for the second call of the others");
}

void SomeMeetNobody() {
  const auto meeting = Open(Merge::kSync, 2);
  Expect(Step(meeting, 0, {1}, {-1, 2, false}).leads(), "in no synchronous round");
  Expect(Step(meeting, -1, {1}, {3, 2, false}).leads(), "of an unknown worker");
  Expect(Step(Open(Merge::kAsync, 2), -1, {1}).leads(), "of an unknown worker");
}

void ARoundClosesAfterItsWait() {
  const auto async = Open(Merge::kAsync, 3, 200);
  Step a(async, 1, {1});
  Step b(async, 0, {2});
  Expect(a.Join().ok() && b.Join().ok() && a.leads(), "closed by time");
  ExpectEqual(a.union_ids(), {2, 1}, "of those that came");
  const auto sync = Open(Merge::kSync, 3, 0, 200);
  Step c(sync, 2, {1}, {0, 3, false});
  Step d(sync, 1, {2}, {0, 3, false});
  Expect(c.Join().ok() && d.Join().ok(), "closed by time");
  Expect(c.leads(), "who was to lead did not come: the first does");
  Expect(Step(sync, 0, {2}, {0, 3, true}).has_joined(), "and when it does come, it is late");
  Expect(Counted(async, kWaitNanoseconds) >= 200'000'000, "what the first waited");
}

void OnlyWorkersThatAreAliveAreWaitedFor() {
  const auto meeting = Open(Merge::kAsync, 3, kForeverMs, 1500);
  Step a(meeting, 0, {1});
  Step b(meeting, 1, {2});
  Expect(!a.has_joined() && !b.has_joined(), "all are taken for alive at the start");
  Step c(meeting, 2, {3});
  Expect(a.has_joined(), "all have come");
  std::this_thread::sleep_for(std::chrono::milliseconds(1600));
  Expect(Step(meeting, 0, {1}).has_joined(), "the others gave no sign for long");
  Step d(meeting, 2, {1});
  Step e(meeting, 0, {2});
  Expect(d.has_joined() && e.has_joined() && d.leads(), "worker 1 is not waited for");
}

void WrongCallsAreRefused() {
  const auto meeting = Open(Merge::kSync, 2);
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const auto precondition = absl::StatusCode::kFailedPrecondition;
  ExpectError(Step(meeting, 2, {1}).Join(), invalid,
              "worker is 2, and the meeting 'test' on /job:ps/task:3 was opened for 2 workers");
  ExpectError(Step(meeting, 1, {1}, {0, 0, true}).Join(), invalid, "num_participants is 0");
  Step leader(meeting, 0, {1, 2}, {0, 2, true});
  leader.request().Share({}, 4, [&](const absl::StatusOr<Rows>& rows) {
    ExpectError(rows.status(), precondition, "once it has joined");
  });
}

void WrongShapesAreRefused() {
  const auto meeting = Open(Merge::kSync, 2);
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const auto precondition = absl::StatusCode::kFailedPrecondition;
  Step leader(meeting, 0, {1, 2}, {0, 2, true});
  Step follower(meeting, 1, {2, 2, 3}, {0, 2, false});
  ExpectError(leader.Share({1, 2}, 1).rows().status(), invalid,
              "embeddings has 2 rows; wanted 3, one for each id of union_ids");
  ExpectError(follower.Share({1}, 1).rows().status(), invalid, "wanted none");
  ExpectError(leader.JoinGradient({1, 2}, 1).sum().status(), precondition, "has none");
  ExpectEqual(*leader.Share({1, 2, 3, 4, 5, 6}, 2).rows(), {1, 2, 3, 4}, "the right shape");
  ExpectError(leader.Share({1, 2, 3}, 1).rows().status(), precondition, "shares once");
  ExpectError(follower.Share({}, 3).rows().status(), invalid,
              "embeddings has width 3, and those of worker 0, which leads the round, have 2");
  ExpectEqual(*follower.Share({}, 2).rows(), {3, 4, 3, 4, 5, 6}, "the right width");
  ExpectError(follower.JoinGradient({1, 2, 3, 4}, 2).sum().status(), invalid,
              "gradient has shape [2, 2]; wanted [3, 2]");
  ExpectError(follower.JoinGradient({1, 2, 3}, 1).sum().status(), invalid, "wanted [3, 2]");
  ExpectEqual(*follower.JoinGradient({1, 2, 3, 4, 5, 6}, 2).sum(), {}, "the right one");
  ExpectError(follower.JoinGradient({1, 2, 3, 4, 5, 6}, 2).sum().status(), precondition,
              "a second backward");
}

void WrongOptionsAreRefused() {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto error = [](int workers, double wait, double timeout) {
    return Meeting::Open({Merge::kAsync, workers, wait, timeout, ""}).status();
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  ExpectError(error(0, 1, 1), invalid, "num_workers is 0");
  ExpectError(error(1, -1, 1), invalid, "merge_wait_ms is -1");
  ExpectError(error(1, nan, 1), invalid, "merge_wait_ms is nan");
  ExpectError(error(1, 1, 0), invalid, "worker_timeout_ms must be more than 0");
  ExpectError(error(1, 1, 1e300), invalid, "at most a year, got 1e+300");
}

}  // namespace
}  // namespace amstf

int main() {
  amstf::DistinctIdsKeepTheOrderOfFirstAppearance();
  amstf::OneRequestByItself();
  amstf::WithoutMergingNobodyMeets();
  amstf::TwoRequestsByHand();
  amstf::EmptyRequestsAreFine();
  amstf::TheSumDoesNotDependOnWhoComesFirst();
  amstf::AWorkersSecondRequestOpensTheNextRound();
  amstf::SynchronousRoundsGoByNumber();
  amstf::SomeMeetNobody();
  amstf::ARoundClosesAfterItsWait();
  amstf::OnlyWorkersThatAreAliveAreWaitedFor();
  amstf::WrongCallsAreRefused();
  amstf::WrongShapesAreRefused();
  amstf::WrongOptionsAreRefused();
  return amstf::Finish();
}
