#include "amstf/cc/table/dynamic_table.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "amstf/cc/table/hashing.h"

namespace amstf {
namespace {

static_assert(DynamicTable::kNumShards == 64, "a shard is named by 6 bits");
int ShardOf(int64_t id) { return static_cast<int>(Mix(static_cast<uint64_t>(id)) >> 58); }

uint32_t SecondsNow() {
  return static_cast<uint32_t>(std::chrono::duration_cast<std::chrono::seconds>(
                                   std::chrono::system_clock::now().time_since_epoch())
                                   .count());
}

absl::Status OtherRule(const RowRule& rule, const RowRule& wanted) {
  return absl::FailedPreconditionError(
      absl::StrCat("the rows of the table are updated by ", rule.name, ", not by ", wanted.name,
                   "; use the same optimizer, or clear the table"));
}

}  // namespace

DynamicTable::DynamicTable(const DynamicTableOptions& options) : options_(options) {
  for (int i = 0; i < kNumShards; ++i) {
    shards_.push_back(std::make_unique<TableShard>(options_, FilterBytesOfShard(), totals_));
  }
}

int64_t DynamicTable::FilterBytesOfShard() const {
  const int64_t bytes = options_.admit_after > 1 ? options_.filter_bytes : 0;
  return (bytes + kNumShards - 1) / kNumShards;
}

DynamicTable::Plan DynamicTable::Route(absl::Span<const int64_t> ids) {
  Plan plan;
  std::vector<uint8_t> shard_of(ids.size());
  std::array<int32_t, kNumShards> ends = {};
  for (size_t i = 0; i < ids.size(); ++i) {
    shard_of[i] = static_cast<uint8_t>(ShardOf(ids[i]));
    ++ends[shard_of[i]];
  }
  plan.begins[0] = 0;
  for (int s = 0; s < kNumShards; ++s) {
    plan.begins[s + 1] = plan.begins[s] + ends[s];
    ends[s] = plan.begins[s];
  }
  plan.places.resize(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) plan.places[ends[shard_of[i]]++] = i;
  return plan;
}

Moment DynamicTable::Tick() {
  const int64_t step = clock_.fetch_add(1) + 1;
  return {static_cast<uint32_t>(std::min<int64_t>(step, UINT32_MAX)), SecondsNow()};
}

void DynamicTable::Lookup(const RowLookup& lookup, const Plan& plan, int begin, int end) {
  for (int s = begin; s < end; ++s) {
    const int32_t count = plan.begins[s + 1] - plan.begins[s];
    if (count > 0) shards_[s]->Lookup(lookup, {plan.places.data() + plan.begins[s], size_t(count)});
  }
}

absl::Status DynamicTable::SetRule(const RowRule& rule) {
  {
    std::shared_lock<std::shared_mutex> lock(rule_mutex_);
    if (rule_.name == rule.name) return absl::OkStatus();
  }
  std::unique_lock<std::shared_mutex> lock(rule_mutex_);
  if (rule_.name == rule.name) return absl::OkStatus();
  if (!rule_.name.empty()) return OtherRule(rule_, rule);
  for (auto& shard : shards_) shard->SetRule(rule);
  rule_ = rule;
  return absl::OkStatus();
}

RowRule DynamicTable::rule() const {
  std::shared_lock<std::shared_mutex> lock(rule_mutex_);
  return rule_;
}

void DynamicTable::Apply(const RowStep& step, absl::Span<const int64_t> ids, const float* gradients,
                         const Plan& plan, int begin, int end) {
  for (int s = begin; s < end; ++s) {
    const int32_t count = plan.begins[s + 1] - plan.begins[s];
    if (count == 0) continue;
    shards_[s]->Apply(step, ids, gradients, {plan.places.data() + plan.begins[s], size_t(count)});
  }
}

TablePage DynamicTable::Export(int begin, int end) const {
  std::shared_lock<std::shared_mutex> lock(rule_mutex_);
  TablePage page;
  for (int s = begin; s < end; ++s) shards_[s]->Export(&page);
  return page;
}

absl::Status DynamicTable::Import(const TablePageView& page, const RowRule& rule) {
  const size_t values = options_.width * (1 + rule.num_slots);
  if (page.values.size() != page.ids.size() * values ||
      page.seen.size() != page.ids.size() * TablePage::kSeen) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a page of ", page.ids.size(), " ids has ", page.values.size(), " values; wanted ", values,
        " for each row of width ", options_.width, " updated by '", rule.name, "'"));
  }
  if (!rule.name.empty()) {
    if (absl::Status status = SetRule(rule); !status.ok()) return status;
  }
  std::shared_lock<std::shared_mutex> lock(rule_mutex_);
  if (!rule.name.empty() && rule_.name != rule.name) return OtherRule(rule_, rule);
  const Plan plan = Route(page.ids);
  for (int s = 0; s < kNumShards; ++s) {
    const int32_t count = plan.begins[s + 1] - plan.begins[s];
    shards_[s]->Import(page, rule.num_slots, {plan.places.data() + plan.begins[s], size_t(count)});
  }
  return absl::OkStatus();
}

std::vector<uint8_t> DynamicTable::ExportFilter() const {
  std::vector<uint8_t> counters;
  counters.reserve(FilterBytesOfShard() * kNumShards);
  for (const auto& shard : shards_) shard->ExportFilter(&counters);
  return counters;
}

absl::Status DynamicTable::MergeFilter(absl::Span<const uint8_t> counters) {
  const int64_t bytes = FilterBytesOfShard();
  if (static_cast<int64_t>(counters.size()) != bytes * kNumShards) {
    return absl::InvalidArgumentError(absl::StrCat("counters has ", counters.size(),
                                                   " elements; wanted those of a filter of ",
                                                   bytes * kNumShards, " bytes"));
  }
  for (int s = 0; s < kNumShards; ++s) shards_[s]->MergeFilter(counters.subspan(s * bytes, bytes));
  return absl::OkStatus();
}

absl::StatusOr<int64_t> DynamicTable::Evict(Eviction eviction, double limit) {
  if (!(limit >= 0) || !std::isfinite(limit)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the limit of an eviction is ", limit, "; wanted 0 or more"));
  }
  TableShard::Test dies;
  const int64_t width = options_.width;
  switch (eviction) {
    case Eviction::kLeastRecent:
    case Eviction::kLeastFrequent:
      return KeepRows(static_cast<int64_t>(limit), eviction == Eviction::kLeastFrequent);
    case Eviction::kUnseenSteps:
      dies = [last = clock_ - limit](const RowHeader& header, const float*) {
        return header.last_step <= last;
      };
      break;
    case Eviction::kUnseenSince:
      dies = [limit](const RowHeader& header, const float*) { return header.last_time < limit; };
      break;
    case Eviction::kSmallNorm:
      dies = [width, least = limit * limit](const RowHeader&, const float* weights) {
        double sum = 0;
        for (int64_t i = 0; i < width; ++i) sum += static_cast<double>(weights[i]) * weights[i];
        return sum < least;
      };
      break;
  }
  int64_t evicted = 0;
  for (auto& shard : shards_) evicted += shard->EvictIf(dies);
  return evicted;
}

int64_t DynamicTable::KeepRows(int64_t rows, bool by_sights) {
  const auto key_of = [by_sights](const RowHeader& header) {
    return by_sights ? header.sights : header.last_step;
  };
  std::vector<uint32_t> keys;
  for (auto& shard : shards_) {
    shard->EvictIf([&](const RowHeader& header, const float*) {
      keys.push_back(key_of(header));
      return false;
    });
  }
  int64_t left = static_cast<int64_t>(keys.size()) - rows;
  if (left <= 0) return 0;
  std::nth_element(keys.begin(), keys.begin() + (left - 1), keys.end());
  const uint32_t last = keys[left - 1];  // The greatest key that dies, and not all that have it.
  int64_t ties =
      left - std::count_if(keys.begin(), keys.end(), [last](uint32_t key) { return key < last; });
  int64_t evicted = 0;
  for (auto& shard : shards_) {
    evicted += shard->EvictIf([&](const RowHeader& header, const float*) {
      const uint32_t key = key_of(header);
      return key < last || (key == last && ties-- > 0);
    });
  }
  return evicted;
}

void DynamicTable::Clear(int64_t clock) {
  std::unique_lock<std::shared_mutex> lock(rule_mutex_);
  for (auto& shard : shards_) shard->Clear();
  rule_ = RowRule();
  clock_ = std::max<int64_t>(0, clock);
}

std::array<int64_t, DynamicTable::kNumCounters> DynamicTable::Counters() const {
  int64_t filter_used = 0;
  for (const auto& shard : shards_) filter_used += shard->filter_used();
  return {totals_.rows,     totals_.bytes,   totals_.asked,   totals_.found,
          totals_.admitted, totals_.refused, totals_.updated, totals_.dropped,
          totals_.evicted,  clock_,          filter_used};
}

}  // namespace amstf
