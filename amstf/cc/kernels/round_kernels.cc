// Kernels of the ops of synchronous rounds: they unpack tensors and call amstf::RoundTable and
// amstf::GradientMean.
#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "amstf/cc/meeting/timeout.h"
#include "amstf/cc/rounds/gradient_mean.h"
#include "amstf/cc/rounds/round_table.h"
#include "tensorflow/core/framework/cancellation.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_op_kernel.h"
#include "tensorflow/core/util/work_sharder.h"

namespace amstf {
namespace {

using tensorflow::AsyncOpKernel;
using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

// Keeps an object of the rounds library alive by the name of a handle.
template <typename Object>
class SharedResource : public tensorflow::ResourceBase {
 public:
  SharedResource(std::shared_ptr<Object> object, std::string description)
      : object_(std::move(object)), description_(std::move(description)) {}

  const std::shared_ptr<Object>& object() const { return object_; }
  std::string DebugString() const override { return description_; }

 private:
  const std::shared_ptr<Object> object_;
  const std::string description_;
};

// What stands for an object in messages: two handles of one name must agree in it.
std::string Describe(const RoundTableOptions& options) {
  return absl::StrCat("round table with num_workers=", options.num_workers,
                      " and worker_timeout_ms=", options.worker_timeout_ms);
}

std::string Describe(double worker_timeout_ms) {
  return absl::StrCat("gradient mean with worker_timeout_ms=", worker_timeout_ms);
}

// Options is what Object::Make takes.
template <typename Object, typename Options>
class SharedResourceOp : public tensorflow::ResourceOpKernel<SharedResource<Object>> {
 public:
  using tensorflow::ResourceOpKernel<SharedResource<Object>>::ResourceOpKernel;

 protected:
  Options options_;

 private:
  absl::Status CreateResource(SharedResource<Object>** resource) override {
    *resource = new SharedResource<Object>(Object::Make(options_), Describe(options_));
    return absl::OkStatus();
  }

  absl::Status VerifyResource(SharedResource<Object>* resource) override {
    if (resource->DebugString() == Describe(options_)) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("wanted a ", Describe(options_), ", but this name has a ",
                     resource->DebugString(), "; use another shared_name"));
  }
};

class RoundTableOp : public SharedResourceOp<RoundTable, RoundTableOptions> {
 public:
  explicit RoundTableOp(OpKernelConstruction* ctx) : SharedResourceOp(ctx) {
    float timeout;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_workers", &options_.num_workers));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("worker_timeout_ms", &timeout));
    options_.worker_timeout_ms = timeout;
    OP_REQUIRES_OK(ctx, options_.Validate());
  }
};

class GradientMeanOp : public SharedResourceOp<GradientMean, double> {
 public:
  explicit GradientMeanOp(OpKernelConstruction* ctx) : SharedResourceOp(ctx) {
    float timeout;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("worker_timeout_ms", &timeout));
    OP_REQUIRES_OK(ctx, ValidateTimeout("worker_timeout_ms", timeout));
    options_ = timeout;
  }
};

template <typename Object>
absl::Status Find(OpKernelContext* ctx, std::shared_ptr<Object>* object) {
  tensorflow::core::RefCountPtr<SharedResource<Object>> resource;
  TF_RETURN_IF_ERROR(
      tensorflow::LookupResource(ctx, tensorflow::HandleFromInput(ctx, 0), &resource));
  *object = resource->object();
  return absl::OkStatus();
}

template <typename T>
absl::Status ReadScalar(OpKernelContext* ctx, const char* name, T* value) {
  const Tensor* tensor;
  TF_RETURN_IF_ERROR(ctx->input(name, &tensor));
  if (tensor->dims() != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, " must be a scalar, got shape ", tensor->shape().DebugString()));
  }
  *value = tensor->scalar<T>()();
  return absl::OkStatus();
}

// One op that waits for a result and for the cancellation of its step, whichever comes first.
//
// The result may come, and would end the op, before the cancellation is watched. So the op ends
// after both, in the thread of the later.
template <typename Result>
class WaitingCall {
 public:
  using Finish = std::function<void(absl::StatusOr<Result>)>;

  WaitingCall(OpKernelContext* ctx, Finish finish)
      : manager_(ctx->cancellation_manager()), finish_(std::move(finish)) {}

  void SetResult(absl::StatusOr<Result> result) {
    result_ = std::move(result);
    Step();
  }

  // `cancel` must bring the result soon, or do nothing if it has come. It may be called after the
  // op has ended.
  void WatchCancellation(const std::function<void()>& cancel) {
    if (manager_ != nullptr && steps_left_.load() == 2) {
      token_ = manager_->get_cancellation_token();
      registered_ = manager_->RegisterCallback(token_, cancel);
      if (!registered_) cancel();
    }
    Step();
  }

 private:
  void Step() {
    if (steps_left_.fetch_sub(1) != 1) return;
    // Not Deregister, which waits for a cancellation in progress: it may be what brought us here.
    if (registered_) manager_->TryDeregisterCallback(token_);
    finish_(std::move(result_));
  }

  tensorflow::CancellationManager* const manager_;
  const Finish finish_;
  std::atomic<int> steps_left_{2};
  absl::StatusOr<Result> result_;
  tensorflow::CancellationToken token_ = 0;
  bool registered_ = false;
};

class EnterRoundOp : public AsyncOpKernel {
 public:
  explicit EnterRoundOp(OpKernelConstruction* ctx) : AsyncOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("enabled", &enabled_));
  }

  void ComputeAsync(OpKernelContext* ctx, DoneCallback done) override {
    if (!enabled_) {
      Finish(ctx, RoundPlace{-1, 1, true}, done);
      return;
    }
    std::shared_ptr<RoundTable> table;
    int32_t worker;
    OP_REQUIRES_OK_ASYNC(ctx, Find(ctx, &table), done);
    OP_REQUIRES_OK_ASYNC(ctx, ReadScalar(ctx, "worker", &worker), done);
    auto call = std::make_shared<WaitingCall<RoundPlace>>(
        ctx, [ctx, done](const absl::StatusOr<RoundPlace>& place) { Finish(ctx, place, done); });
    const int64_t entry = table->Enter(
        worker, [call](const absl::StatusOr<RoundPlace>& place) { call->SetResult(place); });
    call->WatchCancellation([table, entry] { table->Cancel(entry); });
  }

 private:
  static void Finish(OpKernelContext* ctx, const absl::StatusOr<RoundPlace>& place,
                     const DoneCallback& done) {
    OP_REQUIRES_OK_ASYNC(ctx, place.status(), done);
    Tensor* out = nullptr;
    OP_REQUIRES_OK_ASYNC(ctx, ctx->allocate_output(0, {}, &out), done);
    out->scalar<int64_t>()() = place->number;
    OP_REQUIRES_OK_ASYNC(ctx, ctx->allocate_output(1, {}, &out), done);
    out->scalar<int32_t>()() = place->num_participants;
    OP_REQUIRES_OK_ASYNC(ctx, ctx->allocate_output(2, {}, &out), done);
    out->scalar<bool>()() = place->leads;
    done();
  }

  bool enabled_;
};

std::vector<int64_t> Sizes(const TensorShape& shape, int from) {
  std::vector<int64_t> sizes;
  for (int i = from; i < shape.dims(); ++i) sizes.push_back(shape.dim_size(i));
  return sizes;
}

// Hands in the gradient and, for the leader, waits for those of the others.
class MeanGradientBaseOp : public AsyncOpKernel {
 public:
  using AsyncOpKernel::AsyncOpKernel;

  void ComputeAsync(OpKernelContext* ctx, DoneCallback done) override {
    std::shared_ptr<GradientMean> mean;
    RoundPlace place;
    GradientPart part;
    OP_REQUIRES_OK_ASYNC(ctx, Find(ctx, &mean), done);
    OP_REQUIRES_OK_ASYNC(ctx, ReadScalar(ctx, "worker", &part.worker), done);
    OP_REQUIRES_OK_ASYNC(ctx, ReadScalar(ctx, "round", &place.number), done);
    OP_REQUIRES_OK_ASYNC(ctx, ReadScalar(ctx, "num_participants", &place.num_participants), done);
    OP_REQUIRES_OK_ASYNC(ctx, ReadScalar(ctx, "leads", &place.leads), done);
    OP_REQUIRES_OK_ASYNC(ctx, Fill(ctx, &part), done);
    // The others may need the gradient after this op has ended.
    const auto owner = std::make_shared<Tensor>(ctx->input(1));
    part.values = absl::Span<const float>(owner->flat<float>().data(), owner->NumElements());
    part.owner = owner;

    auto call = std::make_shared<WaitingCall<GradientParts>>(
        ctx, [this, ctx, done](absl::StatusOr<GradientParts> parts) {
          if (!parts.ok() || parts->size() < 2) {
            Finish(ctx, parts, done);
            return;
          }
          // This may be the thread of the timer, or of another worker's step.
          (*ctx->runner())(
              [this, ctx, done, parts = std::move(parts)] { Finish(ctx, parts, done); });
        });
    const int64_t entry = mean->Contribute(
        place, std::move(part),
        [call](absl::StatusOr<GradientParts> parts) { call->SetResult(std::move(parts)); });
    call->WatchCancellation([mean, entry] { mean->Cancel(entry); });
  }

 protected:
  // Sets what is known of the gradient besides its values.
  virtual absl::Status Fill(OpKernelContext* ctx, GradientPart* part) = 0;
  // Outputs the mean of the parts, or nothing if there are none.
  virtual absl::Status Write(OpKernelContext* ctx, const GradientParts& parts) = 0;

 private:
  void Finish(OpKernelContext* ctx, const absl::StatusOr<GradientParts>& parts,
              const DoneCallback& done) {
    OP_REQUIRES_OK_ASYNC(ctx, parts.status(), done);
    OP_REQUIRES_OK_ASYNC(ctx, Write(ctx, *parts), done);
    done();
  }
};

class MeanGradientOp : public MeanGradientBaseOp {
 public:
  using MeanGradientBaseOp::MeanGradientBaseOp;

 private:
  absl::Status Fill(OpKernelContext* ctx, GradientPart* part) override {
    part->shape = Sizes(ctx->input(1).shape(), 0);
    return absl::OkStatus();
  }

  absl::Status Write(OpKernelContext* ctx, const GradientParts& parts) override {
    const Tensor& gradient = ctx->input(1);
    // Who gets parts has its own among them: one part is the input.
    if (parts.size() == 1) {
      ctx->set_output(0, gradient);
      return absl::OkStatus();
    }
    Tensor* mean = nullptr;
    const TensorShape shape = parts.empty() ? TensorShape({0}) : gradient.shape();
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, shape, &mean));
    if (parts.empty()) return absl::OkStatus();
    float* out = mean->flat<float>().data();
    const auto& threads = *ctx->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(threads.num_threads, threads.workers, mean->NumElements(), parts.size(),
                      [&](int64_t begin, int64_t end) { MeanOfDense(parts, begin, end, out); });
    return absl::OkStatus();
  }
};

template <typename T>
class MeanSparseGradientOp : public MeanGradientBaseOp {
 public:
  using MeanGradientBaseOp::MeanGradientBaseOp;

 private:
  absl::Status Fill(OpKernelContext* ctx, GradientPart* part) override {
    const Tensor& values = ctx->input(1);
    const Tensor& indices = ctx->input(2);
    if (values.dims() < 1 || indices.dims() != 1 || values.dim_size(0) != indices.dim_size(0)) {
      return absl::InvalidArgumentError(absl::StrCat(
          "values has shape ", values.shape().DebugString(), " and indices ",
          indices.shape().DebugString(), "; wanted [n, ...] and [n], a gradient for each row"));
    }
    const auto rows = indices.flat<T>();
    part->is_sparse = true;
    part->shape = Sizes(values.shape(), 1);
    part->rows.assign(rows.data(), rows.data() + rows.size());
    return absl::OkStatus();
  }

  absl::Status Write(OpKernelContext* ctx, const GradientParts& parts) override {
    TensorShape shape = ctx->input(1).shape();
    if (parts.size() == 1 && IsAscending(parts[0].rows)) {
      ctx->set_output(0, ctx->input(1));
      ctx->set_output(1, ctx->input(2));
      return absl::OkStatus();
    }
    const MeanOfSparse mean(parts);
    const std::vector<int64_t>& rows = mean.rows();
    const int64_t count = rows.size();
    Tensor* values = nullptr;
    Tensor* indices = nullptr;
    shape.set_dim(0, count);
    TF_RETURN_IF_ERROR(ctx->allocate_output(0, shape, &values));
    TF_RETURN_IF_ERROR(ctx->allocate_output(1, {count}, &indices));
    std::copy(rows.begin(), rows.end(), indices->flat<T>().data());
    float* out = values->flat<float>().data();
    const auto& threads = *ctx->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(threads.num_threads, threads.workers, count,
                      mean.width() * static_cast<int64_t>(parts.size()),
                      [&](int64_t begin, int64_t end) { mean.Write(begin, end, out); });
    return absl::OkStatus();
  }

  static bool IsAscending(const std::vector<int64_t>& rows) {
    return std::adjacent_find(rows.begin(), rows.end(), std::greater_equal<int64_t>()) ==
           rows.end();
  }
};

template <typename Object>
class CountersOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    std::shared_ptr<Object> object;
    OP_REQUIRES_OK(ctx, Find(ctx, &object));
    const auto counters = object->Counters();
    Tensor* out = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {Object::kNumCounters}, &out));
    std::copy(counters.begin(), counters.end(), out->flat<int64_t>().data());
  }
};

REGISTER_KERNEL_BUILDER(Name("AmsRoundTable").Device(tensorflow::DEVICE_CPU), RoundTableOp);
REGISTER_KERNEL_BUILDER(Name("AmsEnterRound").Device(tensorflow::DEVICE_CPU), EnterRoundOp);
REGISTER_KERNEL_BUILDER(Name("AmsRoundCounters").Device(tensorflow::DEVICE_CPU),
                        CountersOp<RoundTable>);
REGISTER_KERNEL_BUILDER(Name("AmsGradientMean").Device(tensorflow::DEVICE_CPU), GradientMeanOp);
REGISTER_KERNEL_BUILDER(Name("AmsMeanGradient").Device(tensorflow::DEVICE_CPU), MeanGradientOp);
REGISTER_KERNEL_BUILDER(
    Name("AmsMeanSparseGradient").Device(tensorflow::DEVICE_CPU).TypeConstraint<int32_t>("T"),
    MeanSparseGradientOp<int32_t>);
REGISTER_KERNEL_BUILDER(
    Name("AmsMeanSparseGradient").Device(tensorflow::DEVICE_CPU).TypeConstraint<int64_t>("T"),
    MeanSparseGradientOp<int64_t>);
REGISTER_KERNEL_BUILDER(Name("AmsGradientMeanCounters").Device(tensorflow::DEVICE_CPU),
                        CountersOp<GradientMean>);

}  // namespace
}  // namespace amstf
