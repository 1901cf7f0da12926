// Kernels of the ops that read image stores: they unpack tensors and call amstf::ImageStore.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "amstf/cc/store/image_store.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_op_kernel.h"
#include "tensorflow/core/util/work_sharder.h"

namespace amstf {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

constexpr int kNumCounters = 5;
// From this size on a lookup writes past the caches: they could not hold its result until E reads
// it.
constexpr size_t kPastCacheBytes = 16 << 20;
constexpr size_t kIdsInMessage = 8;  // Enough to look some up, few enough to read.

// An open store and what it has served. Thread-safe.
class ImageStoreResource : public tensorflow::ResourceBase {
 public:
  explicit ImageStoreResource(std::unique_ptr<ImageStore> store) : store_(std::move(store)) {}

  const ImageStore& store() const { return *store_; }
  std::string DebugString() const override { return store_->DebugString(); }

  void Count(int64_t asked, int64_t missing, int64_t nanoseconds) {
    lookups_.fetch_add(1, std::memory_order_relaxed);
    asked_.fetch_add(asked, std::memory_order_relaxed);
    missing_.fetch_add(missing, std::memory_order_relaxed);
    nanoseconds_.fetch_add(nanoseconds, std::memory_order_relaxed);
  }

  std::vector<int64_t> Counters() const {
    return {store_->num_images(), lookups_, asked_, missing_, nanoseconds_};
  }

 private:
  const std::unique_ptr<ImageStore> store_;
  std::atomic<int64_t> lookups_{0};
  std::atomic<int64_t> asked_{0};
  std::atomic<int64_t> missing_{0};
  std::atomic<int64_t> nanoseconds_{0};
};

FeatureType FeatureTypeOf(tensorflow::DataType dtype) {
  switch (dtype) {
    case tensorflow::DT_HALF:
      return FeatureType::kFloat16;
    case tensorflow::DT_UINT8:
      return FeatureType::kUint8;
    default:
      return FeatureType::kFloat32;
  }
}

class ImageStoreOp : public tensorflow::ResourceOpKernel<ImageStoreResource> {
 public:
  explicit ImageStoreOp(OpKernelConstruction* ctx) : ResourceOpKernel(ctx) {
    std::vector<std::string> paths;
    std::vector<int64_t> bytes, rows, ids_offsets, features_offsets, scales_offsets;
    tensorflow::DataType dtype;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("paths", &paths));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("file_bytes", &bytes));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("rows", &rows));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("ids_offsets", &ids_offsets));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("features_offsets", &features_offsets));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("scales_offsets", &scales_offsets));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("width", &options_.width));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("dtype", &dtype));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_servers", &options_.num_servers));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("server", &options_.server));
    const size_t n = paths.size();
    OP_REQUIRES(ctx,
                bytes.size() == n && rows.size() == n && ids_offsets.size() == n &&
                    features_offsets.size() == n,
                absl::InvalidArgumentError(
                    "paths, file_bytes, rows, ids_offsets and features_offsets differ in length"));
    options_.type = FeatureTypeOf(dtype);
    const bool is_scaled = options_.type == FeatureType::kUint8;
    OP_REQUIRES(ctx, !is_scaled || scales_offsets.size() == n,
                absl::InvalidArgumentError(
                    absl::StrCat("features of uint8 need scales: scales_offsets has ",
                                 scales_offsets.size(), " entries for ", n, " files")));
    for (size_t i = 0; i < n; ++i) {
      options_.files.push_back({paths[i], bytes[i], rows[i], ids_offsets[i], features_offsets[i],
                                is_scaled ? scales_offsets[i] : 0});
    }
    OP_REQUIRES_OK(ctx, options_.Validate());
  }

 private:
  absl::Status CreateResource(ImageStoreResource** resource) override {
    absl::StatusOr<std::unique_ptr<ImageStore>> store = ImageStore::Open(options_);
    if (!store.ok()) return store.status();
    *resource = new ImageStoreResource(*std::move(store));
    return absl::OkStatus();
  }

  ImageStoreOptions options_;
};

// The first error of the shards of one lookup.
class SharedStatus {
 public:
  void Update(const absl::Status& status) {
    absl::MutexLock lock(&mutex_);
    status_.Update(status);
  }
  absl::Status Get() {
    absl::MutexLock lock(&mutex_);
    return status_;
  }

 private:
  absl::Mutex mutex_;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

absl::Status MissingImages(const ImageStore& store, absl::Span<const int64_t> ids,
                           const bool* found, int64_t num_missing) {
  std::vector<int64_t> named;
  bool more = false;
  for (size_t i = 0; i < ids.size() && !more; ++i) {
    const bool is_new = std::find(named.begin(), named.end(), ids[i]) == named.end();
    if (ids[i] < 0 || found[i] || !is_new) continue;
    more = named.size() == kIdsInMessage;
    if (!more) named.push_back(ids[i]);
  }
  return absl::NotFoundError(
      absl::StrCat(num_missing, " of ", ids.size(), " image ids are not in the ",
                   store.DebugString(), ": ", absl::StrJoin(named, ", "), more ? ", ..." : "",
                   "; add these images to the store, or set missing='zeros'"));
}

class ImageLookupOp : public OpKernel {
 public:
  explicit ImageLookupOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    std::string missing;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("missing", &missing));
    fail_if_missing_ = missing == "error";
  }

  void Compute(OpKernelContext* ctx) override {
    const auto start = std::chrono::steady_clock::now();
    tensorflow::core::RefCountPtr<ImageStoreResource> resource;
    OP_REQUIRES_OK(ctx,
                   tensorflow::LookupResource(ctx, tensorflow::HandleFromInput(ctx, 0), &resource));
    const ImageStore& store = resource->store();
    const Tensor& ids_tensor = ctx->input(1);
    OP_REQUIRES(ctx, ids_tensor.dims() == 1,
                absl::InvalidArgumentError(absl::StrCat("ids must be a vector, got shape ",
                                                        ids_tensor.shape().DebugString())));
    const int64_t count = ids_tensor.NumElements();
    const absl::Span<const int64_t> ids(ids_tensor.flat<int64_t>().data(), count);
    Tensor* features_tensor = nullptr;
    Tensor* found_tensor = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {count, store.width()}, &features_tensor));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, {count}, &found_tensor));
    float* features = features_tensor->flat<float>().data();
    bool* found = found_tensor->flat<bool>().data();

    const bool past_cache = features_tensor->TotalBytes() >= kPastCacheBytes;
    SharedStatus status;
    const auto& threads = *ctx->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(
        threads.num_threads, threads.workers, count, store.width() * 2,
        [&](int64_t begin, int64_t end) {
          status.Update(store.Gather(ids.subspan(begin, end - begin),
                                     features + begin * store.width(), found + begin, past_cache));
        });
    OP_REQUIRES_OK(ctx, status.Get());
    const int64_t asked = std::count_if(ids.begin(), ids.end(), [](int64_t id) { return id >= 0; });
    const int64_t missing = asked - std::count(found, found + count, true);
    resource->Count(asked, missing,
                    std::chrono::duration_cast<std::chrono::nanoseconds>(
                        std::chrono::steady_clock::now() - start)
                        .count());
    OP_REQUIRES(ctx, missing == 0 || !fail_if_missing_, MissingImages(store, ids, found, missing));
  }

 private:
  bool fail_if_missing_;
};

class ImageStoreCountersOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    tensorflow::core::RefCountPtr<ImageStoreResource> resource;
    OP_REQUIRES_OK(ctx,
                   tensorflow::LookupResource(ctx, tensorflow::HandleFromInput(ctx, 0), &resource));
    const std::vector<int64_t> counters = resource->Counters();
    Tensor* out = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {kNumCounters}, &out));
    std::copy(counters.begin(), counters.end(), out->flat<int64_t>().data());
  }
};

REGISTER_KERNEL_BUILDER(Name("AmsImageStore").Device(tensorflow::DEVICE_CPU), ImageStoreOp);
REGISTER_KERNEL_BUILDER(Name("AmsImageLookup").Device(tensorflow::DEVICE_CPU), ImageLookupOp);
REGISTER_KERNEL_BUILDER(Name("AmsImageStoreCounters").Device(tensorflow::DEVICE_CPU),
                        ImageStoreCountersOp);

}  // namespace
}  // namespace amstf
