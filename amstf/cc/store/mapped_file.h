// A file mapped read-only into memory.
#ifndef AMSTF_CC_STORE_MAPPED_FILE_H_
#define AMSTF_CC_STORE_MAPPED_FILE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace amstf {

// Owns the mapping of one whole file. Thread-safe: the content is never written.
//
// A file that another process cuts while it is mapped raises SIGBUS on access; stores are
// therefore replaced by renaming a new file over the old one, never rewritten in place.
class MappedFile {
 public:
  // Maps the file. NotFound if it cannot be opened, DataLoss if it is empty.
  static absl::StatusOr<std::unique_ptr<MappedFile>> Open(const std::string& path);

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  const uint8_t* data() const { return data_; }
  int64_t size() const { return size_; }

 private:
  MappedFile(std::string path, const uint8_t* data, int64_t size)
      : path_(std::move(path)), data_(data), size_(size) {}

  const std::string path_;
  const uint8_t* const data_;
  const int64_t size_;
};

}  // namespace amstf

#endif  // AMSTF_CC_STORE_MAPPED_FILE_H_
