// Kernel of the op that reads stretches of TFRecord files.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/platform/env.h"
#include "tensorflow/core/util/work_sharder.h"
#include "tsl/lib/hash/crc32c.h"
#include "tsl/platform/raw_coding.h"

namespace amstf {
namespace {

using tensorflow::Tensor;
using tensorflow::tstring;

// A TFRecord: length (8 bytes), masked CRC-32C of it (4), data, masked CRC-32C of the data (4).
constexpr size_t kHeader = 12;
constexpr size_t kFooter = 4;

absl::Status At(const std::string& path, int64_t offset, const char* what) {
  return absl::DataLossError(absl::StrCat(path, ": record at byte ", offset, " ", what));
}

bool HasChecksum(const char* data, size_t size, const char* masked) {
  return tsl::crc32c::Unmask(tsl::core::DecodeFixed32(masked)) == tsl::crc32c::Value(data, size);
}

absl::Status Read(const std::string& path, int64_t offset, int64_t size,
                  std::vector<tstring>* records) {
  tensorflow::Env* env = tensorflow::Env::Default();
  std::unique_ptr<tensorflow::RandomAccessFile> file;
  uint64_t file_size = 0;
  absl::Status status = env->NewRandomAccessFile(path, &file);
  if (status.ok()) status = env->GetFileSize(path, &file_size);
  if (!status.ok()) return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  // Before memory is taken for it.
  if (offset < 0 || size < 0 || size > static_cast<int64_t>(file_size) - offset) {
    // Not OutOfRange: Keras takes that for the end of the data.
    return absl::DataLossError(absl::StrCat(path, ": wanted ", size, " bytes from byte ", offset,
                                            " on, the file has ", file_size));
  }
  std::vector<char> buffer(size);
  absl::string_view read;
  status = file->Read(offset, size, &read, buffer.data());
  if (!status.ok()) return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  for (size_t at = 0; at < read.size();) {
    const char* record = read.data() + at;
    const size_t left = read.size() - at;
    if (left < kHeader + kFooter || !HasChecksum(record, 8, record + 8)) {
      return At(path, offset + at, "is damaged: the checksum of its length is wrong");
    }
    const uint64_t length = tsl::core::DecodeFixed64(record);
    if (length > left - kHeader - kFooter) return At(path, offset + at, "is cut off");
    if (!HasChecksum(record + kHeader, length, record + kHeader + length)) {
      return At(path, offset + at, "is damaged: its checksum is wrong");
    }
    records->emplace_back(record + kHeader, length);
    at += kHeader + length + kFooter;
  }
  return absl::OkStatus();
}

class ReadRecordsOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* ctx) override {
    const Tensor& paths = ctx->input(0);
    const Tensor& offsets = ctx->input(1);
    const Tensor& sizes = ctx->input(2);
    OP_REQUIRES(
        ctx,
        paths.dims() == 1 && offsets.shape() == paths.shape() && sizes.shape() == paths.shape(),
        absl::InvalidArgumentError(
            absl::StrCat("paths, offsets and sizes must be vectors of one length, got ",
                         paths.shape().DebugString(), ", ", offsets.shape().DebugString(), " and ",
                         sizes.shape().DebugString())));
    const int64_t stretches = paths.dim_size(0);
    std::vector<std::vector<tstring>> records(stretches);
    std::vector<absl::Status> statuses(stretches);
    // Some 100 microseconds for each, in units of about a nanosecond.
    constexpr int64_t kCost = 100000;
    auto* threads = ctx->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(threads->num_threads, threads->workers, stretches, kCost,
                      [&](int64_t begin, int64_t end) {
                        for (int64_t i = begin; i < end; ++i) {
                          statuses[i] = Read(paths.vec<tstring>()(i), offsets.vec<int64_t>()(i),
                                             sizes.vec<int64_t>()(i), &records[i]);
                        }
                      });
    int64_t total = 0;
    for (int64_t i = 0; i < stretches; ++i) {
      OP_REQUIRES_OK(ctx, statuses[i]);
      total += records[i].size();
    }
    Tensor* output = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {total}, &output));
    tstring* next = output->vec<tstring>().data();
    for (std::vector<tstring>& stretch : records) {
      next = std::move(stretch.begin(), stretch.end(), next);
    }
  }
};

REGISTER_KERNEL_BUILDER(Name("AmsReadRecords").Device(tensorflow::DEVICE_CPU), ReadRecordsOp);

}  // namespace
}  // namespace amstf
