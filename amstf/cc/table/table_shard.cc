#include "amstf/cc/table/table_shard.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace amstf {
namespace {

constexpr int kSamples = 8;     // Rows that are compared to find one that must go.
constexpr int kMostDraws = 64;  // Places that are looked at to find so many.
constexpr size_t kBlock = 32;   // Ids that are found together.
constexpr int64_t kLine = 64;   // Bytes of a cache line.
constexpr int64_t kMostPrefetched = 8 * kLine;
constexpr uint64_t kDraws = 0x8EBC6AF09C88C6E3ull;

// What abseil's set of 4-byte values takes for so many places: a byte of control for each, and a
// group of them more.
int64_t IndexBytes(int64_t capacity) {
  return capacity == 0 ? 0 : capacity * (sizeof(uint32_t) + 1) + 16;
}

// Up to this many values abseil clears what erased values left in place, instead of doubling.
int64_t IndexLimit(int64_t capacity) { return capacity * 25 / 32; }

uint32_t Saturated(int64_t value) {
  return static_cast<uint32_t>(std::clamp<int64_t>(value, 0, UINT32_MAX));
}

// Asks for the memory from `first` to before `end`.
void Prefetch(const void* first, const void* end) {
  const char* begin = static_cast<const char*>(first);
  const int64_t bytes = std::min<int64_t>(static_cast<const char*>(end) - begin, kMostPrefetched);
  for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(begin + i);
  __builtin_prefetch(begin + bytes - 1);
}

}  // namespace

TableShard::TableShard(const DynamicTableOptions& options, int64_t filter_bytes,
                       TableTotals& totals)
    : options_(options),
      totals_(totals),
      arena_(options.width),
      index_(0, Hash{&arena_}, Equal{&arena_}),
      filter_(filter_bytes),
      random_(Mix(options.seed)) {
  totals_.bytes += filter_.bytes();
}

void TableShard::Lookup(const RowLookup& lookup, Places places) {
  int64_t found = 0, asked = 0;
  std::array<uint32_t, kBlock> rows;
  std::lock_guard<std::mutex> lock(mutex_);
  for (size_t begin = 0; begin < places.size(); begin += kBlock) {
    const Places block = places.subspan(begin, kBlock);
    FindBlock(lookup.ids, block, places.subspan(begin + block.size(), kBlock), options_.width,
              rows.data());
    for (size_t i = 0; i < block.size(); ++i) {
      asked += lookup.ids[block[i]] != kNoId;
      found += rows[i] != RowArena::kNone;
      // At once, or the row could make place for another of this block.
      if (lookup.training && rows[i] != RowArena::kNone) See(rows[i], lookup, block[i]);
    }
    for (size_t i = 0; i < block.size(); ++i) FillRow(lookup, block[i], rows[i]);
  }
  totals_.asked += asked;
  totals_.found += found;
}

void TableShard::See(uint32_t row, const RowLookup& lookup, int32_t place) {
  RowHeader& header = arena_.Header(row);
  header.last_step = std::max(header.last_step, lookup.now.step);
  header.last_time = std::max(header.last_time, lookup.now.time);
  header.sights = Saturated(int64_t{header.sights} + lookup.SightsOf(place));
}

void TableShard::FillRow(const RowLookup& lookup, int32_t place, uint32_t row) {
  const int64_t width = options_.width;
  const int64_t id = lookup.ids[place];
  float* out = lookup.rows + place * width;
  if (row == RowArena::kNone && lookup.training && id != kNoId) {
    row = Find(id);  // It may have come twice in the block.
    if (row == RowArena::kNone) {
      row = Admit(id, lookup.SightsOf(place), lookup.now);
    } else {
      See(row, lookup, place);
      ++totals_.found;
    }
  }
  if (row != RowArena::kNone) {
    std::copy_n(arena_.Values(row), width, out);
  } else if (options_.initial_without_row && id != kNoId) {
    options_.Initialize(id, out);
  } else {
    std::fill_n(out, width, 0.0f);
  }
}

void TableShard::Apply(const RowStep& step, absl::Span<const int64_t> ids, const float* gradients,
                       Places places) {
  const int64_t width = options_.width;
  int64_t updated = 0, without_id = 0;
  std::lock_guard<std::mutex> lock(mutex_);
  found_.clear();
  if (rule_.name == RuleOf(step).name) {
    std::array<uint32_t, kBlock> rows;
    for (size_t begin = 0; begin < places.size(); begin += kBlock) {
      const Places block = places.subspan(begin, kBlock);
      FindBlock(ids, block, places.subspan(begin + block.size(), kBlock), num_values(),
                rows.data());
      for (size_t i = 0; i < block.size(); ++i) {
        without_id += ids[block[i]] == kNoId;
        if (rows[i] == RowArena::kNone) continue;
        found_.push_back(static_cast<uint64_t>(rows[i]) << 32 | static_cast<uint32_t>(block[i]));
      }
    }
  }
  // Those of one row together, in the order of the batch.
  std::sort(found_.begin(), found_.end());
  sum_.resize(width);
  for (size_t begin = 0, end; begin < found_.size(); begin = end) {
    const uint64_t row = found_[begin] >> 32;
    for (end = begin + 1; end < found_.size() && found_[end] >> 32 == row;) ++end;
    const float* gradient = gradients + static_cast<uint32_t>(found_[begin]) * width;
    if (end - begin > 1) {
      std::copy_n(gradient, width, sum_.data());
      for (size_t i = begin + 1; i < end; ++i) {
        const float* other = gradients + static_cast<uint32_t>(found_[i]) * width;
        for (int64_t k = 0; k < width; ++k) sum_[k] += other[k];
      }
      gradient = sum_.data();
    }
    std::visit([&](const auto& rule) { ApplyTo(rule, gradient, width, arena_.Values(row)); }, step);
    ++updated;
  }
  totals_.updated += updated;
  totals_.dropped += places.size() - found_.size() - without_id;
}

void TableShard::SetRule(const RowRule& rule) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int before = rule_.num_slots;
  rule_ = rule;
  if (rule.num_slots == before) return;
  totals_.bytes -= arena_.bytes();
  arena_.Widen(num_values());
  totals_.bytes += arena_.bytes();
  for (uint32_t row : index_) SetSlots(arena_.Values(row), before);
}

void TableShard::Export(TablePage* page) const {
  std::lock_guard<std::mutex> lock(mutex_);
  for (uint32_t row : index_) {
    const RowHeader& header = arena_.Header(row);
    const float* values = arena_.Values(row);
    page->ids.push_back(header.id);
    page->values.insert(page->values.end(), values, values + num_values());
    page->seen.insert(page->seen.end(), {header.last_step, header.last_time, header.sights});
  }
}

void TableShard::Import(const TablePageView& page, int num_slots, Places places) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int64_t values = options_.width * (1 + num_slots);
  for (int32_t place : places) {
    const int64_t id = page.ids[place];
    const int64_t* seen = page.seen.data() + place * TablePage::kSeen;
    // Of no step, so that a table at its limit may put any row in the place of another.
    uint32_t row = Find(id);
    if (row == RowArena::kNone && id != kNoId) row = Insert(id, Moment{UINT32_MAX, 0});
    if (row == RowArena::kNone) {
      ++totals_.refused;
      continue;
    }
    RowHeader& header = arena_.Header(row);
    header.last_step = Saturated(seen[0]);
    header.last_time = Saturated(seen[1]);
    header.sights = std::max(1u, Saturated(seen[2]));
    std::copy_n(page.values.data() + place * values, values, arena_.Values(row));
    SetSlots(arena_.Values(row), num_slots);
  }
}

int64_t TableShard::EvictIf(const Test& dies) {
  std::lock_guard<std::mutex> lock(mutex_);
  int64_t evicted = 0;
  for (auto it = index_.begin(); it != index_.end();) {
    const uint32_t row = *it;
    if (!dies(arena_.Header(row), arena_.Values(row))) {
      ++it;
      continue;
    }
    index_.erase(it++);
    arena_.Free(row);
    ++evicted;
  }
  totals_.rows -= evicted;
  totals_.evicted += evicted;
  return evicted;
}

void TableShard::Clear() {
  std::lock_guard<std::mutex> lock(mutex_);
  totals_.rows -= index_.size();
  totals_.bytes -= arena_.bytes() + IndexBytes(index_.capacity());
  index_ = Index(0, Hash{&arena_}, Equal{&arena_});
  arena_ = RowArena(options_.width);
  filter_ = CountingFilter(filter_.bytes());
  rule_ = RowRule();
}

int64_t TableShard::filter_used() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return filter_.used();
}

void TableShard::ExportFilter(std::vector<uint8_t>* counters) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const absl::Span<const uint8_t> own = filter_.counters();
  counters->insert(counters->end(), own.begin(), own.end());
}

void TableShard::MergeFilter(absl::Span<const uint8_t> counters) {
  std::lock_guard<std::mutex> lock(mutex_);
  filter_.Merge(counters);
}

uint32_t TableShard::Find(int64_t id) const {
  const auto found = index_.find(id);
  return found == index_.end() ? RowArena::kNone : *found;
}

void TableShard::FindBlock(absl::Span<const int64_t> ids, Places block, Places next, int64_t values,
                           uint32_t* rows) const {
  for (int32_t place : next) index_.prefetch(ids[place]);
  for (size_t i = 0; i < block.size(); ++i) {
    const auto guess = index_.find(Guess{ids[block[i]]});
    rows[i] = guess == index_.end() ? RowArena::kNone : *guess;
    if (rows[i] == RowArena::kNone) continue;
    Prefetch(&arena_.Header(rows[i]), arena_.Values(rows[i]) + values);
  }
  for (size_t i = 0; i < block.size(); ++i) {
    const int64_t id = ids[block[i]];
    if (rows[i] != RowArena::kNone && arena_.Header(rows[i]).id != id) rows[i] = Find(id);
  }
}

uint32_t TableShard::Admit(int64_t id, int64_t sights, const Moment& now) {
  uint32_t seen = Saturated(sights);
  if (options_.admit_after > 1) {
    seen = filter_.Add(id, sights);
    if (seen < options_.admit_after) {
      ++totals_.refused;
      return RowArena::kNone;
    }
  }
  if (options_.admit_probability < 1) {
    const uint64_t stream = Mix(options_.seed ^ kDraws) ^ static_cast<uint64_t>(id);
    const float draw = Unit(Mix(Mix(stream) + now.step));
    if (draw >= 1 - std::pow(1 - options_.admit_probability, static_cast<float>(sights))) {
      ++totals_.refused;
      return RowArena::kNone;
    }
  }
  const uint32_t row = Insert(id, now);
  if (row == RowArena::kNone) {
    ++totals_.refused;
    return row;
  }
  arena_.Header(row).sights = std::max(1u, seen);
  options_.Initialize(id, arena_.Values(row));
  SetSlots(arena_.Values(row), 0);
  ++totals_.admitted;
  return row;
}

uint32_t TableShard::Insert(int64_t id, const Moment& now) {
  if (!TakeRoom()) {
    if (options_.at_limit == AtLimit::kRefuse || !EvictOne(now)) return RowArena::kNone;
    ++totals_.rows;  // In place of the one that went; neither arena nor index grow.
  }
  const uint32_t row = arena_.Allocate();
  RowHeader& header = arena_.Header(row);
  header.id = id;
  header.last_step = now.step;
  header.last_time = now.time;
  index_.insert(row);
  return row;
}

bool TableShard::TakeRoom() {
  // Taken first and given back, since other shards do the same at the same time.
  if (totals_.rows.fetch_add(1) >= options_.max_rows && options_.max_rows > 0) {
    --totals_.rows;
    return false;
  }
  const int64_t capacity = index_.capacity();
  const int64_t wanted =
      static_cast<int64_t>(index_.size()) < IndexLimit(capacity) ? capacity : 2 * capacity + 1;
  const int64_t places = std::max<int64_t>(wanted, 7);
  const int64_t growth =
      (arena_.HasRoom() ? 0 : arena_.chunk_bytes()) + IndexBytes(places) - IndexBytes(capacity);
  if (totals_.bytes.fetch_add(growth) + growth > options_.max_bytes && options_.max_bytes > 0 &&
      growth > 0) {
    totals_.bytes -= growth;
    --totals_.rows;
    return false;
  }
  if (places > capacity) index_.reserve(places - places / 8);
  return true;
}

bool TableShard::EvictOne(const Moment& now) {
  uint32_t victim = RowArena::kNone;
  uint32_t least = 0;
  int compared = 0;
  for (int i = 0; i < kMostDraws && compared < kSamples && arena_.size() > 0; ++i) {
    random_ = Mix(random_);
    const uint32_t row = random_ % arena_.size();
    const RowHeader& header = arena_.Header(row);
    if (header.sights == 0 || header.last_step == now.step) continue;
    ++compared;
    const uint32_t key =
        options_.at_limit == AtLimit::kLeastFrequent ? header.sights : header.last_step;
    if (victim == RowArena::kNone || key < least) {
      victim = row;
      least = key;
    }
  }
  if (victim == RowArena::kNone) return false;
  Remove(victim);
  ++totals_.evicted;
  return true;
}

void TableShard::Remove(uint32_t row) {
  index_.erase(index_.find(arena_.Header(row).id));
  arena_.Free(row);
  --totals_.rows;
}

void TableShard::SetSlots(float* values, int first_slot) const {
  for (int slot = first_slot; slot < rule_.num_slots; ++slot) {
    std::fill_n(values + options_.width * (1 + slot), options_.width, rule_.initial[slot]);
  }
}

}  // namespace amstf
