// Tests of the dynamic table and its parts. Exit code 0 when all expectations hold.
#include "amstf/cc/table/dynamic_table.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <thread>  // NOLINT: many workers use one table
#include <vector>

#include "amstf/cc/table/counting_filter.h"
#include "amstf/cc/testing/expect.h"

namespace amstf {
namespace {

using Ids = std::vector<int64_t>;
using Values = std::vector<float>;
using Counters = std::array<int64_t, DynamicTable::kNumCounters>;
enum Counter {
  kRows,
  kBytes,
  kAsked,
  kFound,
  kAdmitted,
  kRefused,
  kUpdated,
  kDropped,
  kEvicted,
  kClock,
  kFilterUsed
};  // clang-format: as listed in dynamic_table.h

DynamicTableOptions Options(int64_t width = 2, float value = 1) {
  DynamicTableOptions options;
  options.width = width;
  options.a = value;
  return options;
}

Values Lookup(DynamicTable& table, const Ids& ids, bool training = true,
              const std::vector<int32_t>& sights = {}) {
  Values rows(ids.size() * table.options().width, -77);
  RowLookup lookup{ids, sights, training, training ? table.Tick() : Moment(), rows.data()};
  table.Lookup(lookup, DynamicTable::Route(ids));
  return rows;
}

absl::Status Apply(DynamicTable& table, const RowStep& step, const Ids& ids,
                   const Values& gradients) {
  absl::Status status = table.SetRule(RuleOf(step));
  if (status.ok()) table.Apply(step, ids, gradients.data(), DynamicTable::Route(ids));
  return status;
}

Ids Range(int64_t begin, int64_t end) {
  Ids ids(end - begin);
  std::iota(ids.begin(), ids.end(), begin);
  return ids;
}

std::set<int64_t> IdsOf(const DynamicTable& table) {
  const TablePage page = table.Export(0, DynamicTable::kNumShards);
  return {page.ids.begin(), page.ids.end()};
}

void ARowIsBornWhenItIsSeenInTraining() {
  DynamicTable table(Options());
  Expect(Lookup(table, {5, -3}, false) == Values(4, 0), "zeros without a row");
  Expect(table.Counters()[kRows] == 0 && table.Counters()[kClock] == 0, "reading changes nothing");
  Expect(Lookup(table, {5, -3, 5}) == Values(6, 1), "the initial value");
  Expect(Lookup(table, {-3, 4}, false) == Values({1, 1, 0, 0}), "it stays");
  const Counters counters = table.Counters();
  Expect(counters[kRows] == 2 && counters[kAdmitted] == 2 && counters[kAsked] == 7 &&
             counters[kFound] == 2 && counters[kClock] == 1,
         "counters");
}

void EmptyBatchesAreBatches() {
  DynamicTable table(Options());
  Expect(Lookup(table, {}).empty(), "no ids");
  Expect(Apply(table, SgdStep{1}, {}, {}).ok(), "no gradients");
  Expect(table.Evict(Eviction::kLeastRecent, 0).value() == 0, "no rows");
}

void NoIdHasNoRow() {
  DynamicTableOptions options = Options();
  options.initial_without_row = true;
  DynamicTable table(options);
  Expect(Lookup(table, {-1, 5, -1}) == Values({0, 0, 1, 1, 0, 0}), "zeros");
  Expect(Apply(table, SgdStep{1}, {-1, 5}, {1, 1, 1, 1}).ok(), "its gradient is none");
  Expect(table.Import({{-1}, {1, 1}, {1, 1, 1}}, table.rule()).ok(), "nor is it imported");
  Expect(IdsOf(table) == std::set<int64_t>({5}), "no row");
  const Counters counters = table.Counters();
  Expect(counters[kAsked] == 1 && counters[kDropped] == 0, "nor is it counted");
}

void InitialValuesAreOfSeedAndIdAlone() {
  for (Initializer kind : {Initializer::kUniform, Initializer::kNormal}) {
    DynamicTableOptions options = Options(512);
    options.initializer = kind;
    options.a = kind == Initializer::kUniform ? -0.5f : 2.0f;
    options.b = 0.5f;
    DynamicTable one(options), other(options);
    const Values rows = Lookup(one, {7, 8, 9});
    Lookup(other, {1, 9});
    Expect(Lookup(other, {7, 8, 9}) == rows, "whatever the batches");
    options.seed = 1;
    DynamicTable third(options);
    Expect(Lookup(third, {7, 8, 9}) != rows, "another seed, other values");
    double sum = 0, squares = 0;
    for (float value : rows) sum += value, squares += value * value;
    const double mean = sum / rows.size(),
                 deviation = std::sqrt(squares / rows.size() - mean * mean);
    const double wanted = kind == Initializer::kUniform ? 1 / std::sqrt(12.0) : 0.5;
    Expect(std::abs(mean - (kind == Initializer::kUniform ? 0 : 2)) < 0.05, "mean");
    Expect(std::abs(deviation - wanted) < 0.03, "deviation");
  }
}

void GradientsOfOneRowAreSummedBeforeTheStep() {
  DynamicTable table(Options(1, 0));
  Lookup(table, {1, 2});
  Expect(Apply(table, AdagradStep{1, 0, 16}, {1, 2, 1, 99}, {1, 3, 2, 4}).ok(), "applied");
  // 3 / sqrt(16 + 9); two steps would be 1 / sqrt(17) + 2 / sqrt(21).
  Expect(Lookup(table, {1, 2}, false) == Values({-0.6f, -0.6f}), "one step a row");
  const Counters counters = table.Counters();
  Expect(counters[kUpdated] == 2 && counters[kDropped] == 1, "99 has no row");
}

void RowsGetTheSlotsOfTheFirstRule() {
  DynamicTable table(Options(2, 3));
  Lookup(table, Range(0, 1000));
  Expect(Apply(table, *MakeRowStep("ftrl", Values{1, -0.5, 0, 0, 0, 0, 0.25}, 1), {}, {}).ok(), "");
  Lookup(table, {1000});  // Born after the rule was known.
  for (int s = 0; s < DynamicTable::kNumShards; ++s) {
    const TablePage page = table.Export(s, s + 1);
    Expect(page.values.size() == page.ids.size() * 6, "2 weights, 4 of slots");
    for (size_t i = 0; i < page.ids.size(); ++i) {
      Expect(std::equal(&page.values[i * 6], &page.values[i * 6] + 6,
                        Values({3, 3, 0.25, 0.25, 0, 0}).begin()),
             "slots begin as the rule says");
    }
  }
  ExpectError(Apply(table, SgdStep{1}, {1}, {0, 0}), absl::StatusCode::kFailedPrecondition,
              "updated by ftrl, not by sgd");
  ExpectError(MakeRowStep("adam", Values{1}, 1).status(), absl::StatusCode::kInvalidArgument,
              "settings has 1 values, wanted 4");
  ExpectError(MakeRowStep("adan", {}, 1).status(), absl::StatusCode::kInvalidArgument,
              "rule is 'adan'; use sgd");
}

void AnIdIsAdmittedAfterSoManySights() {
  DynamicTableOptions options = Options(1);
  options.admit_after = 3;
  options.filter_bytes = 1 << 16;
  DynamicTable table(options);
  Expect(Lookup(table, {1, 2}) == Values({0, 0}), "first sight");
  Expect(Lookup(table, {1, 3}, true, {2, 3}) == Values({1, 1}), "1 + 2 sights, and 3 at once");
  Expect(IdsOf(table) == std::set<int64_t>({1, 3}), "not 2");
  const Counters counters = table.Counters();
  Expect(counters[kAdmitted] == 2 && counters[kRefused] == 2 && counters[kFilterUsed] == 12,
         "counters");
}

void TheFilterNeverCountsTooFew() {
  CountingFilter filter(1000);
  std::map<int64_t, uint32_t> truth;
  int64_t more = 0, calls = 0;
  for (int round = 0; round < 5; ++round) {
    for (int64_t id = 0; id < 100; ++id) {
      truth[id] += 1 + id % 3;
      const uint32_t said = filter.Add(id, 1 + id % 3);
      Expect(said >= truth[id], "at least the truth");
      more += said > truth[id];
      ++calls;
    }
  }
  // 400 of 1,000 counters at most are used: an id shares all four with probability 0.4^4 = 2.6 %.
  Expect(more < 0.05 * calls, "seldom more");
  for (int i = 0; i < 300; ++i) filter.Add(5, 1);
  Expect(filter.Add(5, 1) == 255, "full counters stay full");
}

void WhatTheFilterCountedCanMove() {
  DynamicTableOptions options = Options();
  options.admit_after = 3;
  options.filter_bytes = 1 << 16;
  DynamicTable one(options), other(options), both(options);
  Lookup(one, {5, 6}, true, {2, 1});
  Lookup(other, {7, 6}, true, {2, 2});
  Expect(both.MergeFilter(one.ExportFilter()).ok(), "merged");
  Expect(both.MergeFilter(other.ExportFilter()).ok(), "merged");
  Expect(both.Counters()[kFilterUsed] == 3 * 4, "three ids, four counters each");
  Lookup(both, {5, 6, 7, 8});
  Expect(IdsOf(both) == std::set<int64_t>({5, 6, 7}), "each goes on where it was seen most");
  DynamicTable all(Options());
  Expect(all.ExportFilter().empty() && all.MergeFilter({}).ok(), "nothing is counted");
  Expect(all.MergeFilter({1}).code() == absl::StatusCode::kInvalidArgument, "another size");
}

void ManyIdsOfABlockAreFound() {
  // So many that in the index other ids have the same 7 bits.
  DynamicTable table(Options(1, 0));
  const Ids ids = Range(0, 200000);
  Lookup(table, ids);
  Values gradients(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) gradients[i] = -static_cast<float>(i);
  Expect(Apply(table, SgdStep{1}, ids, gradients).ok(), "applied");
  Ids asked = Range(-100000, 300000);
  const Values rows = Lookup(table, asked, false);
  bool good = true;
  for (size_t i = 0; i < asked.size(); ++i) {
    good &= rows[i] == (asked[i] >= 0 && asked[i] < 200000 ? asked[i] : 0);
  }
  Expect(good, "each has its own row, others none");
}

void AdmissionWithAProbability() {
  DynamicTableOptions options = Options(1);
  options.admit_probability = 0.25;
  DynamicTable table(options), again(options);
  Lookup(table, Range(0, 10000));
  Lookup(again, Range(0, 10000));
  const int64_t first = table.Counters()[kRows];
  Expect(std::abs(first - 2500) < 200, "a quarter: " + std::to_string(first));
  Expect(IdsOf(table) == IdsOf(again), "the same ids in every run");
  Lookup(table, Range(0, 10000));
  Expect(std::abs(table.Counters()[kRows] - (10000 - 10000 * 9 / 16)) < 300, "and of the others");
}

void RowsDieUnseen() {
  DynamicTable table(Options());
  Lookup(table, Range(0, 10));  // Step 1.
  Lookup(table, Range(5, 10));
  Lookup(table, Range(8, 10));  // Step 3.
  Expect(table.Evict(Eviction::kUnseenSteps, 2).value() == 5, "step 1");
  Expect(IdsOf(table) == std::set<int64_t>({5, 6, 7, 8, 9}), "0 to 4 are gone");
  Expect(table.Evict(Eviction::kUnseenSteps, 1).value() == 3, "step 2");
  Expect(table.Evict(Eviction::kUnseenSince, 1e9).value() == 0, "this century");
  Expect(table.Evict(Eviction::kUnseenSince, 4e9).value() == 2, "until 2096");
  Expect(table.Counters()[kRows] == 0 && table.Counters()[kEvicted] == 10, "all");
  ExpectError(table.Evict(Eviction::kSmallNorm, -1).status(), absl::StatusCode::kInvalidArgument,
              "limit of an eviction is -1");
}

void SmallRowsDie() {
  DynamicTable table(Options(2, 3));
  Lookup(table, {1, 2});
  Expect(Apply(table, SgdStep{1}, {1}, {0, -1}).ok(), "1 is (3, 4)");
  Expect(table.Evict(Eviction::kSmallNorm, 5).value() == 1, "norm of 2 is 4.2");
  Expect(IdsOf(table) == std::set<int64_t>({1}), "norm of 1 is 5");
}

void TheOldestOrTheLeastSeenDieFirst() {
  DynamicTable table(Options());
  for (int64_t i = 0; i < 20; ++i) Lookup(table, {i}, true, {static_cast<int32_t>(20 - i)});
  Expect(table.Evict(Eviction::kLeastRecent, 15).value() == 5, "5 too many");
  Expect(*IdsOf(table).begin() == 5, "the first ones");
  Expect(table.Evict(Eviction::kLeastFrequent, 10).value() == 5, "5 too many");
  Expect(*IdsOf(table).rbegin() == 14, "those seen least");
  Lookup(table, Range(100, 150));
  Expect(table.Evict(Eviction::kLeastRecent, 33).value() == 27, "ties");
  Expect(table.Counters()[kRows] == 33, "exactly so many are left");
}

void ATableAtItsLimitStaysThere() {
  for (AtLimit at_limit : {AtLimit::kRefuse, AtLimit::kLeastRecent, AtLimit::kLeastFrequent}) {
    DynamicTableOptions options = Options(4);
    options.max_rows = 1000;
    options.at_limit = at_limit;
    DynamicTable table(options);
    for (int64_t begin = 0; begin < 5000; begin += 100) Lookup(table, Range(begin, begin + 100));
    const Counters counters = table.Counters();
    Expect(counters[kRows] == 1000, "rows");
    Expect(counters[kAdmitted] - counters[kEvicted] == 1000, "born and dead");
    const std::set<int64_t> left = IdsOf(table);
    if (at_limit == AtLimit::kRefuse) Expect(*left.rbegin() == 999, "the first stay");
    if (at_limit == AtLimit::kLeastRecent) {
      // The oldest of 8 of about 16: few of the first 2,500 can be left.
      Expect(std::distance(left.begin(), left.lower_bound(2500)) < 100, "the old go");
    }
  }
}

void MemoryStaysBelowItsLimit() {
  DynamicTableOptions options = Options(12);
  options.max_bytes = 16 << 20;
  DynamicTable table(options);
  Expect(Apply(table, *MakeRowStep("adam", Values{1, 0.9, 0.99, 1e-7}, 1), {}, {}).ok(), "");
  for (int64_t begin = 0; begin < 200000; begin += 1000) {
    Lookup(table, Range(begin, begin + 1000));
    Expect(table.Counters()[kBytes] <= options.max_bytes, "bytes");
  }
  // A row has 20 + 3 * 12 * 4 bytes, its place in the index 5.7 to 12.8.
  Expect(table.Counters()[kRows] > 0.9 * options.max_bytes / (164 + 12.8), "it is used");
}

void APageMovesRows() {
  DynamicTable table(Options()), other(Options());
  Lookup(table, Range(-500, 500), true);
  Lookup(table, {3}, true, {7});
  Expect(Apply(table, AdagradStep{1, 0, 1}, Range(0, 100), Values(200, 2)).ok(), "");
  Lookup(other, {3, 5000});
  for (int s = 0; s < DynamicTable::kNumShards; s += 16) {
    const TablePage page = table.Export(s, s + 16);
    Expect(other.Import({page.ids, page.values, page.seen}, table.rule()).ok(), "imported");
  }
  Expect(IdsOf(other).size() == 1000, "all but -1, and 5000 stays");
  const Ids all = Range(-500, 500);
  Expect(Lookup(other, all, false) == Lookup(table, all, false), "weights");
  Expect(Apply(table, AdagradStep{1, 0, 1}, all, Values(2000, 1)).ok() &&
             Apply(other, AdagradStep{1, 0, 1}, all, Values(2000, 1)).ok(),
         "slots");
  Expect(Lookup(other, all, false) == Lookup(table, all, false), "slots came too");
  Expect(other.Evict(Eviction::kLeastFrequent, 1).value() == 999 &&
             IdsOf(other) == std::set<int64_t>({3}),
         "sights came too");
  const TablePage bare{{4}, {5, 6}, {1, 1, 1}};
  Expect(other.Import({bare.ids, bare.values, bare.seen}, RowRule()).ok() &&
             Apply(other, AdagradStep{1, 0, 1}, {4}, {0, 0}).ok() &&
             Lookup(other, {4}, false) == Values({5, 6}),
         "a row without slots gets some");
  const TablePage bad{{1}, {1, 2, 3}, {1, 1, 1}};
  ExpectError(other.Import({bad.ids, bad.values, bad.seen}, other.rule()),
              absl::StatusCode::kInvalidArgument, "a page of 1 ids has 3 values; wanted 4");
  ExpectError(other.Import({{}, {}, {}}, *FindRowRule("adam", 0)),
              absl::StatusCode::kFailedPrecondition, "updated by adagrad, not by adam");
  other.Clear(41);
  Lookup(other, {1});
  Expect(other.Counters()[kRows] == 1 && other.Counters()[kClock] == 42, "begins anew");
  Expect(Apply(other, SgdStep{1}, {1}, {1, 1}).ok(), "with any rule");
}

void OptionsAreChecked() {
  const auto message = [](auto change, const std::string& text) {
    DynamicTableOptions options = Options();
    change(options);
    ExpectError(options.Validate(), absl::StatusCode::kInvalidArgument, text);
  };
  Expect(Options().Validate().ok(), "good");
  message([](auto& o) { o.width = 0; }, "width is 0");
  message([](auto& o) { o.initializer = Initializer::kUniform, o.b = -1; }, "initializer has 1");
  message([](auto& o) { o.admit_after = 256; }, "admit_after is 256; wanted 1 to 255");
  message([](auto& o) { o.admit_after = 2; }, "needs a filter");
  message([](auto& o) { o.admit_probability = 0; }, "admit_probability is 0");
  message([](auto& o) { o.max_rows = -1; }, "max_rows is -1");
}

// Every gradient is 1 and every step counts, so weights tell how many updates they had; readers see
// both weights of a row equal, and pages and evictions may come in between.
void ManyThreadsLoseNothing() {
  DynamicTableOptions options = Options(2, 0);
  DynamicTable table(options);
  constexpr int kThreads = 4, kRounds = 150, kHot = 50;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&table, t] {
      for (int round = 0; round < kRounds; ++round) {
        Ids ids = Range(0, kHot);
        const int64_t own = 1000 + (t * kRounds + round) * 20;
        for (int64_t id : Range(own, own + 20)) ids.push_back(id);
        const Values rows = Lookup(table, ids);
        for (size_t i = 0; i < rows.size(); i += 2) Expect(rows[i] == rows[i + 1], "half a row");
        Expect(Apply(table, SgdStep{1}, ids, Values(rows.size(), 1)).ok(), "applied");
      }
    });
  }
  threads.emplace_back([&table] {
    for (int round = 0; round < 40; ++round) {
      const TablePage page = table.Export(0, DynamicTable::kNumShards);
      for (size_t i = 0; i < page.values.size(); i += 2) {
        Expect(page.values[i] == page.values[i + 1], "half a row in a page");
      }
      table.Evict(Eviction::kUnseenSteps, 200).value();
      table.Counters();
    }
  });
  for (std::thread& thread : threads) thread.join();
  Expect(Lookup(table, Range(0, kHot), false) == Values(2 * kHot, -kThreads * kRounds),
         "every update counts");
  const Counters counters = table.Counters();
  Expect(counters[kRows] == counters[kAdmitted] - counters[kEvicted], "born and dead");
}

}  // namespace
}  // namespace amstf

int main() {
  amstf::ARowIsBornWhenItIsSeenInTraining();
  amstf::EmptyBatchesAreBatches();
  amstf::NoIdHasNoRow();
  amstf::InitialValuesAreOfSeedAndIdAlone();
  amstf::GradientsOfOneRowAreSummedBeforeTheStep();
  amstf::RowsGetTheSlotsOfTheFirstRule();
  amstf::AnIdIsAdmittedAfterSoManySights();
  amstf::TheFilterNeverCountsTooFew();
  amstf::WhatTheFilterCountedCanMove();
  amstf::ManyIdsOfABlockAreFound();
  amstf::AdmissionWithAProbability();
  amstf::RowsDieUnseen();
  amstf::SmallRowsDie();
  amstf::TheOldestOrTheLeastSeenDieFirst();
  amstf::ATableAtItsLimitStaysThere();
  amstf::MemoryStaysBelowItsLimit();
  amstf::APageMovesRows();
  amstf::OptionsAreChecked();
  amstf::ManyThreadsLoseNothing();
  return amstf::Finish();
}
