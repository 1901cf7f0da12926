#include "amstf/cc/store/large_pages.h"

#include <sys/mman.h>

#include <cstdint>

namespace amstf {
namespace {

constexpr uintptr_t kLargePage = 2 << 20;

// Below this malloc reuses its memory, whose pages are there already.
constexpr size_t kFreshBytes = 4 << 20;

}  // namespace

void AdviseLargePages(void* data, size_t bytes) {
  if (bytes < kFreshBytes) return;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + kLargePage - 1) & ~(kLargePage - 1);
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) & ~(kLargePage - 1);
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
}

}  // namespace amstf
