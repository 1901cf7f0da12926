// The share of an image store that one server holds, read from mapped memory.
#ifndef AMSTF_CC_STORE_IMAGE_STORE_H_
#define AMSTF_CC_STORE_IMAGE_STORE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "amstf/cc/store/mapped_file.h"
#include "amstf/cc/store/row_copy.h"

namespace amstf {

// Ids fall into this many buckets, as in CrossMedia, so that the number of servers may change
// without rewriting a store.
constexpr int64_t kNumBuckets = 1024;

// Far above any backbone's features, and small enough that no product of it overflows.
constexpr int64_t kMaxWidth = int64_t{1} << 32;

// The server that holds an id. `id` must not be negative.
inline int64_t ServerOfId(int64_t id, int64_t num_servers) {
  return (id & (kNumBuckets - 1)) % num_servers;
}

// Where the datasets of one HDF5 file lie. All are contiguous byte ranges, so that reading
// needs no HDF5 library (whose one global lock would serialise the lookups).
struct StoreFile {
  std::string path;
  int64_t bytes = 0;            // Size of the whole file when it was opened by the chief.
  int64_t rows = 0;             // Images in the file.
  int64_t ids_offset = 0;       // Byte offset of int64 ids[rows].
  int64_t features_offset = 0;  // Byte offset of features[rows][width].
  int64_t scales_offset = 0;    // kUint8 only: byte offset of the RowScale of each row.
};

struct ImageStoreOptions {
  std::vector<StoreFile> files;
  int64_t width = 0;  // Features of an image (F).
  FeatureType type = FeatureType::kFloat32;
  int64_t num_servers = 1;
  int64_t server =
      0;  // This server's index; it holds the buckets b with b % num_servers == server.

  // InvalidArgument if a value makes no sense.
  absl::Status Validate() const;
};

// Thread-safe after Open: nothing is written any more.
class ImageStore {
 public:
  // Maps the files and indexes the ids of this server: O(ids) time, no feature is read.
  // DataLoss if a file is cut, changed or not the one described, or an id is negative or double.
  static absl::StatusOr<std::unique_ptr<ImageStore>> Open(const ImageStoreOptions& options);

  // Images that this server holds.
  int64_t num_images() const { return rows_.size(); }
  int64_t width() const { return options_.width; }

  // Copies the features of ids[i] to out + i * width and sets found[i], for each i. A negative id
  // (no image) and an id that the store lacks give zeros and false.
  // past_cache: as in CopyRow.
  // InvalidArgument if an id belongs to another server, DataLoss if a feature is not finite.
  absl::Status Gather(absl::Span<const int64_t> ids, float* out, bool* found,
                      bool past_cache = false) const;

  // One line for people: the files and what was opened of them.
  std::string DebugString() const;

 private:
  explicit ImageStore(const ImageStoreOptions& options) : options_(options) {}
  absl::Status AddFile(const StoreFile& file);
  bool Copy(const uint8_t* row, float* out, bool past_cache) const;

  const ImageStoreOptions options_;
  std::vector<std::unique_ptr<MappedFile>> files_;
  absl::flat_hash_map<int64_t, const uint8_t*> rows_;  // id -> its row in a mapped file
  // kUint8 only: first row of a file -> the first scale of that file. A scale is found by the
  // address of its row: a second pointer for each id would cost as much memory as the first.
  std::map<const uint8_t*, const uint8_t*> scales_;
};

}  // namespace amstf

#endif  // AMSTF_CC_STORE_IMAGE_STORE_H_
