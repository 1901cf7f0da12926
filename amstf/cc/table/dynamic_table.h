// A table of rows that are born as their ids appear.
#ifndef AMSTF_CC_TABLE_DYNAMIC_TABLE_H_
#define AMSTF_CC_TABLE_DYNAMIC_TABLE_H_

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "amstf/cc/optimizer/row_rule.h"
#include "amstf/cc/table/options.h"
#include "amstf/cc/table/table_shard.h"

namespace amstf {

// Which rows die.
enum class Eviction {
  kUnseenSteps,    // Not seen in the last `limit` steps of the clock.
  kUnseenSince,    // Not seen since second `limit` of 1970.
  kSmallNorm,      // L2 norm of the weights below `limit`.
  kLeastRecent,    // The ones unseen for longest, until `limit` rows are left.
  kLeastFrequent,  // The ones seen least often, likewise.
};

// Thread-safe. Calls that have a range of shards may run at the same time for other ranges of the
// same batch; they are for a pool of threads. Design: docs/design/dynamic_embedding.md.
class DynamicTable {
 public:
  static constexpr int kNumShards = 64;

  // Rows and bytes now; ids asked for, of them found; rows admitted, ids refused; rows updated,
  // gradients dropped for want of a row; rows evicted; steps of the clock; counters of the filter
  // in use.
  static constexpr int kNumCounters = 11;

  // Which ids of a batch belong to which shard.
  struct Plan {
    std::vector<int32_t> places;
    std::array<int32_t, kNumShards + 1> begins;  // Shard s: places[begins[s]] to begins[s + 1].
  };

  // `options` must be valid.
  explicit DynamicTable(const DynamicTableOptions& options);

  const DynamicTableOptions& options() const { return options_; }

  static Plan Route(absl::Span<const int64_t> ids);

  // The moment of a training lookup, which is one step of the clock.
  Moment Tick();
  void Lookup(const RowLookup& lookup, const Plan& plan, int begin = 0, int end = kNumShards);

  // Fixes the rule of the table with the first call. FailedPrecondition if it has another.
  absl::Status SetRule(const RowRule& rule);
  RowRule rule() const;

  // Call SetRule before.
  void Apply(const RowStep& step, absl::Span<const int64_t> ids, const float* gradients,
             const Plan& plan, int begin = 0, int end = kNumShards);

  // The rows of a range of shards.
  TablePage Export(int begin, int end) const;

  // Takes rows, in place of those of the same ids; `rule` may be the empty one, of rows without
  // slots. FailedPrecondition if the table has another
  // rule, InvalidArgument if the page has not the values of the rule.
  absl::Status Import(const TablePageView& page, const RowRule& rule);

  // What the admission filter has counted; empty if ids are not counted.
  std::vector<uint8_t> ExportFilter() const;
  // Takes what the filter of a table with the same options has counted, beside what this one has.
  // InvalidArgument if it is of another size.
  absl::Status MergeFilter(absl::Span<const uint8_t> counters);

  // Removes rows; returns how many. InvalidArgument if the limit makes no sense.
  absl::StatusOr<int64_t> Evict(Eviction eviction, double limit);

  // Forgets everything, the rule too, and sets the clock.
  void Clear(int64_t clock);

  std::array<int64_t, kNumCounters> Counters() const;

 private:
  int64_t KeepRows(int64_t rows, bool by_sights);
  int64_t FilterBytesOfShard() const;

  const DynamicTableOptions options_;
  TableTotals totals_;
  std::atomic<int64_t> clock_{0};
  mutable std::shared_mutex
      rule_mutex_;  // Held by all that need the rule to stay; before a shard's.
  RowRule rule_;    // By rule_mutex_.
  std::vector<std::unique_ptr<TableShard>> shards_;
};

}  // namespace amstf

#endif  // AMSTF_CC_TABLE_DYNAMIC_TABLE_H_
