// One of the parts of a dynamic table that has a lock of its own.
#ifndef AMSTF_CC_TABLE_TABLE_SHARD_H_
#define AMSTF_CC_TABLE_TABLE_SHARD_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/types/span.h"
#include "amstf/cc/optimizer/row_rule.h"
#include "amstf/cc/table/counting_filter.h"
#include "amstf/cc/table/hashing.h"
#include "amstf/cc/table/options.h"
#include "amstf/cc/table/row_arena.h"

namespace amstf {

// Stands for "no id": it has no row, is never admitted, and is embedded as zeros.
constexpr int64_t kNoId = -1;

// What all shards of a table share: how much of its limits is used, and what has happened.
struct TableTotals {
  std::atomic<int64_t> rows{0};
  std::atomic<int64_t> bytes{0};
  std::atomic<int64_t> asked{0};
  std::atomic<int64_t> found{0};
  std::atomic<int64_t> admitted{0};
  std::atomic<int64_t> refused{0};
  std::atomic<int64_t> updated{0};
  std::atomic<int64_t> dropped{0};
  std::atomic<int64_t> evicted{0};
};

// When a lookup is made.
struct Moment {
  uint32_t step = 0;  // Of the table's clock.
  uint32_t time = 0;  // Seconds since 1970.
};

// Ids that are looked up together.
struct RowLookup {
  absl::Span<const int64_t> ids;
  absl::Span<const int32_t> sights;  // How often each is seen; none: once each.
  bool training = false;             // Whether ids are seen, and may be admitted.
  Moment now;
  float* rows = nullptr;  // [ids, D], filled.

  int64_t SightsOf(int32_t place) const { return sights.empty() ? 1 : sights[place]; }
};

// Rows with all that is known of them.
struct TablePage {
  std::vector<int64_t> ids;
  std::vector<float> values;  // [n, D * (1 + slots)].
  std::vector<int64_t> seen;  // [n, kSeen]: last step, last time, sights.
  static constexpr int kSeen = 3;
};

// The same, of another's memory.
struct TablePageView {
  absl::Span<const int64_t> ids;
  absl::Span<const float> values;
  absl::Span<const int64_t> seen;
};

// Rows of ids behind one mutex. Thread-safe. `places` are the indices, into the arrays of a call,
// of the ids that belong to this shard.
class TableShard {
 public:
  using Places = absl::Span<const int32_t>;

  // `options` must be valid; it and `totals` must outlive the shard.
  TableShard(const DynamicTableOptions& options, int64_t filter_bytes, TableTotals& totals);

  void Lookup(const RowLookup& lookup, Places places);

  // Updates the rows of ids with the sum of their gradients [ids, D]; drops those of ids without a
  // row. Drops all if the rows are not those of this step's rule.
  void Apply(const RowStep& step, absl::Span<const int64_t> ids, const float* gradients,
             Places places);

  // Gives the rows the slots of a rule; they must not have those of another.
  void SetRule(const RowRule& rule);

  // Adds all rows to a page.
  void Export(TablePage* page) const;
  // Takes rows in place of those of the same ids. They have the slots of the rule, or none: then
  // they get those that a row begins with.
  void Import(const TablePageView& page, int num_slots, Places places);

  // Removes the rows for which `dies` holds; returns how many. Weights are the first D values.
  using Test = std::function<bool(const RowHeader&, const float* weights)>;
  int64_t EvictIf(const Test& dies);

  // Forgets everything, the rule too.
  void Clear();

  int64_t filter_used() const;
  // Adds what the filter has counted to the end.
  void ExportFilter(std::vector<uint8_t>* counters) const;
  // Takes what a filter of the same size has counted, beside what this one has.
  void MergeFilter(absl::Span<const uint8_t> counters);

 private:
  // An id whose row is not to be read: equal to the first row that the 7 bits in the index allow.
  struct Guess {
    int64_t id;
  };
  struct Hash {
    using is_transparent = void;
    const RowArena* arena;
    size_t operator()(int64_t id) const { return Mix(static_cast<uint64_t>(id)); }
    size_t operator()(Guess guess) const { return (*this)(guess.id); }
    size_t operator()(uint32_t row) const { return (*this)(arena->Header(row).id); }
  };
  struct Equal {
    using is_transparent = void;
    const RowArena* arena;
    bool operator()(uint32_t one, uint32_t other) const { return one == other; }
    bool operator()(uint32_t row, int64_t id) const { return arena->Header(row).id == id; }
    bool operator()(int64_t id, uint32_t row) const { return (*this)(row, id); }
    bool operator()(uint32_t, Guess) const { return true; }
    bool operator()(Guess, uint32_t) const { return true; }
  };
  // Numbers of rows, by the id that is written in the row.
  using Index = absl::flat_hash_set<uint32_t, Hash, Equal>;

  // All below need mutex_.
  uint32_t Find(int64_t id) const;
  // Finds the rows of a block of ids, kNone for those without, and asks for the memory of their
  // first `values` floats: all are asked for before one is read, so that the waits for memory
  // overlap. Of the ids of the `next` block it asks for their places in the index.
  void FindBlock(absl::Span<const int64_t> ids, Places block, Places next, int64_t values,
                 uint32_t* rows) const;
  // Notes that the id of a row, at a place of a lookup, is seen.
  void See(uint32_t row, const RowLookup& lookup, int32_t place);
  // Writes the row of the id at a place; in training, the id is admitted if it has none.
  void FillRow(const RowLookup& lookup, int32_t place, uint32_t row);
  // The new row of an id; RowArena::kNone if it is not admitted.
  uint32_t Admit(int64_t id, int64_t sights, const Moment& now);
  // The new row of an id that has none, its values not set; kNone if there is no room.
  uint32_t Insert(int64_t id, const Moment& now);
  bool TakeRoom();
  bool EvictOne(const Moment& now);
  void Remove(uint32_t row);
  void SetSlots(float* values, int first_slot) const;
  int64_t num_values() const { return options_.width * (1 + rule_.num_slots); }

  const DynamicTableOptions& options_;
  TableTotals& totals_;
  mutable std::mutex mutex_;
  // All below by mutex_.
  RowArena arena_;
  Index index_;
  CountingFilter filter_;
  RowRule rule_;
  uint64_t random_;
  std::vector<uint64_t> found_;  // Scratch of Apply.
  std::vector<float> sum_;       // Likewise.
};

}  // namespace amstf

#endif  // AMSTF_CC_TABLE_TABLE_SHARD_H_
