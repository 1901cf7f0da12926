// Where the rows of a shard lie in memory.
#ifndef AMSTF_CC_TABLE_ROW_ARENA_H_
#define AMSTF_CC_TABLE_ROW_ARENA_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace amstf {

// What is known of a row; its weights and slots follow.
struct RowHeader {
  int64_t id;
  uint32_t last_step;  // Of the table's clock, when it was last seen; of a free row the next one.
  uint32_t last_time;  // Seconds since 1970, when it was last seen.
  uint32_t sights;     // 0: the place is free.
};

// Rows of one size in chunks that never move; a row is named by its number. Not thread-safe.
class RowArena {
 public:
  // values: floats of a row, slots included.
  explicit RowArena(int64_t values);

  // Whether the next Allocate needs no more memory.
  bool HasRoom() const { return first_free_ != kNone || size_ < Capacity(); }

  // A place for a row, with sights = 1 and all else as it happens to be.
  uint32_t Allocate();
  void Free(uint32_t row);

  RowHeader& Header(uint32_t row) { return *reinterpret_cast<RowHeader*>(At(row)); }
  const RowHeader& Header(uint32_t row) const {
    return *reinterpret_cast<const RowHeader*>(At(row));
  }
  float* Values(uint32_t row) { return reinterpret_cast<float*>(At(row) + kHeaderBytes); }
  const float* Values(uint32_t row) const {
    return reinterpret_cast<const float*>(At(row) + kHeaderBytes);
  }

  // Numbers of rows that were ever given out are below this.
  uint32_t size() const { return size_; }
  int64_t bytes() const { return static_cast<int64_t>(chunks_.size()) * chunk_bytes(); }
  int64_t chunk_bytes() const { return row_bytes_ << chunk_bits_; }

  // Gives every row this many values; the first ones stay, the new ones are not set.
  void Widen(int64_t values);

  // Numbers of rows are below this.
  static constexpr uint32_t kNone = UINT32_MAX;

 private:
  // The header without the padding behind it: floats may follow at once.
  static constexpr size_t kHeaderBytes = offsetof(RowHeader, sights) + sizeof(uint32_t);

  char* At(uint32_t row) const {
    return chunks_[row >> chunk_bits_].get() + (row & ((1u << chunk_bits_) - 1)) * row_bytes_;
  }
  int64_t Capacity() const { return static_cast<int64_t>(chunks_.size()) << chunk_bits_; }

  int64_t row_bytes_;
  int chunk_bits_;
  std::vector<std::unique_ptr<char[]>> chunks_;
  uint32_t size_ = 0;
  uint32_t first_free_ = kNone;
};

}  // namespace amstf

#endif  // AMSTF_CC_TABLE_ROW_ARENA_H_
