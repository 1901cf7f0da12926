#include "amstf/cc/store/image_store.h"

#include <cstring>
#include <iterator>

#include "absl/strings/str_cat.h"

namespace amstf {
namespace {

constexpr char kHdf5Signature[] = "\x89HDF\r\n\x1a\n";

// True if [offset, offset + rows * row_bytes) lies in [0, size); written so that nothing overflows.
bool RangeFits(int64_t offset, int64_t rows, int64_t row_bytes, int64_t size) {
  return offset >= 0 && offset <= size && rows <= (size - offset) / row_bytes;
}

int64_t LoadInt64(const uint8_t* bytes) {
  int64_t value;
  std::memcpy(&value, bytes, sizeof(value));
  return value;
}

}  // namespace

absl::Status ImageStoreOptions::Validate() const {
  if (files.empty()) return absl::InvalidArgumentError("an image store needs at least one file");
  if (width < 1 || width > kMaxWidth) {
    return absl::InvalidArgumentError(
        absl::StrCat("width must be 1 to ", kMaxWidth, ", got ", width));
  }
  if (num_servers < 1 || num_servers > kNumBuckets) {
    return absl::InvalidArgumentError(
        absl::StrCat("num_servers must be 1 to ", kNumBuckets, ", got ", num_servers));
  }
  if (server < 0 || server >= num_servers) {
    return absl::InvalidArgumentError(
        absl::StrCat("server must be 0 to ", num_servers - 1, ", got ", server));
  }
  for (const StoreFile& file : files) {
    if (file.rows < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(file.path, ": rows must not be negative, got ", file.rows));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ImageStore>> ImageStore::Open(const ImageStoreOptions& options) {
  if (absl::Status status = options.Validate(); !status.ok()) return status;
  std::unique_ptr<ImageStore> store(new ImageStore(options));
  for (const StoreFile& file : options.files) {
    if (absl::Status status = store->AddFile(file); !status.ok()) return status;
  }
  return store;
}

absl::Status ImageStore::AddFile(const StoreFile& file) {
  absl::StatusOr<std::unique_ptr<MappedFile>> opened = MappedFile::Open(file.path);
  if (!opened.ok()) return opened.status();
  const MappedFile& mapped = **opened;
  const int64_t row_bytes = options_.width * FeatureBytes(options_.type);
  if (mapped.size() != file.bytes) {
    return absl::DataLossError(absl::StrCat(file.path, " has ", mapped.size(), " bytes, expected ",
                                            file.bytes,
                                            ": it was cut or replaced after it was opened, or this "
                                            "machine sees another file under that path"));
  }
  if (mapped.size() < 8 || std::memcmp(mapped.data(), kHdf5Signature, 8) != 0) {
    return absl::DataLossError(absl::StrCat(file.path, " is not an HDF5 file"));
  }
  if (!RangeFits(file.ids_offset, file.rows, sizeof(int64_t), mapped.size()) ||
      !RangeFits(file.features_offset, file.rows, row_bytes, mapped.size()) ||
      (options_.type == FeatureType::kUint8 &&
       !RangeFits(file.scales_offset, file.rows, sizeof(RowScale), mapped.size()))) {
    return absl::DataLossError(absl::StrCat(file.path, " has ", mapped.size(),
                                            " bytes, too few for ", file.rows, " images of ",
                                            options_.width, " features: the file was cut"));
  }
  // Only now: a number of rows that the file cannot hold must not reach an allocation.
  rows_.reserve(rows_.size() + file.rows / options_.num_servers);
  const uint8_t* ids = mapped.data() + file.ids_offset;
  const uint8_t* features = mapped.data() + file.features_offset;
  for (int64_t row = 0; row < file.rows; ++row) {
    const int64_t id = LoadInt64(ids + row * sizeof(int64_t));
    if (id < 0) {
      return absl::DataLossError(
          absl::StrCat(file.path, ": row ", row, " has the negative image id ", id));
    }
    if (ServerOfId(id, options_.num_servers) != options_.server) continue;
    if (!rows_.emplace(id, features + row * row_bytes).second) {
      return absl::DataLossError(
          absl::StrCat(file.path, ": row ", row, " has image id ", id, ", which stands twice"));
    }
  }
  if (file.rows > 0) scales_[features] = mapped.data() + file.scales_offset;
  files_.push_back(*std::move(opened));
  return absl::OkStatus();
}

bool ImageStore::Copy(const uint8_t* row, float* out, bool past_cache) const {
  if (options_.type != FeatureType::kUint8) {
    return CopyRow(options_.type, row, options_.width, out, past_cache);
  }
  const auto [first_row, first_scale] = *std::prev(scales_.upper_bound(row));
  RowScale scale;
  std::memcpy(&scale, first_scale + (row - first_row) / options_.width * sizeof(scale),
              sizeof(scale));
  return CopyScaledRow(row, scale, options_.width, out, past_cache);
}

absl::Status ImageStore::Gather(absl::Span<const int64_t> ids, float* out, bool* found,
                                bool past_cache) const {
  for (size_t i = 0; i < ids.size(); ++i, out += options_.width) {
    const int64_t id = ids[i];
    if (id >= 0) {
      if (ServerOfId(id, options_.num_servers) != options_.server) {
        return absl::InvalidArgumentError(absl::StrCat(
            "image id ", id, " belongs to server ", ServerOfId(id, options_.num_servers), " of ",
            options_.num_servers, ", server ", options_.server, " was asked"));
      }
      const auto row = rows_.find(id);
      if (row != rows_.end()) {
        if (!Copy(row->second, out, past_cache)) {
          return absl::DataLossError(absl::StrCat("the features of image id ", id, " in ",
                                                  DebugString(), " are not all finite numbers"));
        }
        found[i] = true;
        continue;
      }
    }
    found[i] = false;
    std::memset(out, 0, options_.width * sizeof(float));
  }
  return absl::OkStatus();
}

std::string ImageStore::DebugString() const {
  const std::string more =
      options_.files.size() > 1 ? absl::StrCat(" and ", options_.files.size() - 1, " more") : "";
  return absl::StrCat("image store ", options_.files[0].path, more, " (", num_images(),
                      " images of ", options_.width, " features, server ", options_.server, " of ",
                      options_.num_servers, ")");
}

}  // namespace amstf
