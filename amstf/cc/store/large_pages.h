// Asks for large pages under a large buffer that is about to be written.
#ifndef AMSTF_CC_STORE_LARGE_PAGES_H_
#define AMSTF_CC_STORE_LARGE_PAGES_H_

#include <cstddef>

namespace amstf {

// A large tensor is fresh memory in every step: the kernel maps and clears it page by page at the
// first write, which takes longer than the copy itself. With 2 MiB pages that is 512 times fewer
// faults. A hint only: nothing happens where it cannot be met, or where the buffer is small.
void AdviseLargePages(void* data, size_t bytes);

}  // namespace amstf

#endif  // AMSTF_CC_STORE_LARGE_PAGES_H_
