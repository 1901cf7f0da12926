#include "amstf/cc/table/row_arena.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace amstf {
namespace {

// Small, as each shard has one that is not full; large beside the allocator's own bytes.
constexpr int64_t kChunkBytes = 32 << 10;

}  // namespace

RowArena::RowArena(int64_t values) {
  const int64_t alignment = alignof(RowHeader);
  const int64_t bytes = kHeaderBytes + values * static_cast<int64_t>(sizeof(float));
  row_bytes_ = (bytes + alignment - 1) / alignment * alignment;
  chunk_bits_ = 2;
  while ((row_bytes_ << (chunk_bits_ + 1)) <= kChunkBytes) ++chunk_bits_;
}

uint32_t RowArena::Allocate() {
  uint32_t row = first_free_;
  if (row != kNone) {
    first_free_ = Header(row).last_step;
  } else {
    if (size_ == Capacity()) chunks_.emplace_back(new char[chunk_bytes()]);
    row = size_++;
  }
  Header(row).sights = 1;
  return row;
}

void RowArena::Free(uint32_t row) {
  Header(row).sights = 0;
  Header(row).last_step = first_free_;
  first_free_ = row;
}

void RowArena::Widen(int64_t values) {
  RowArena wider(values);
  const int64_t kept = std::min(row_bytes_, wider.row_bytes_);
  for (uint32_t row = 0; row < size_; ++row) {
    wider.Allocate();
    std::memcpy(wider.At(row), At(row), kept);
  }
  wider.first_free_ = first_free_;
  *this = std::move(wider);
}

}  // namespace amstf
