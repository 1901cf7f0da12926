// Kernels of the ops that merge requests: they unpack tensors and call amstf::Meeting.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "amstf/cc/meeting/meeting.h"
#include "tensorflow/core/framework/cancellation.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_op_kernel.h"
#include "tensorflow/core/framework/variant.h"
#include "tensorflow/core/framework/variant_op_registry.h"
#include "tensorflow/core/framework/variant_tensor_data.h"

namespace amstf {
namespace {

using tensorflow::AsyncOpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Variant;

class MeetingResource : public tensorflow::ResourceBase {
 public:
  explicit MeetingResource(std::shared_ptr<Meeting> meeting) : meeting_(std::move(meeting)) {}

  Meeting& meeting() const { return *meeting_; }
  std::string DebugString() const override { return meeting_->options().name; }

 private:
  const std::shared_ptr<Meeting> meeting_;
};

class MeetingOp : public tensorflow::ResourceOpKernel<MeetingResource> {
 public:
  explicit MeetingOp(OpKernelConstruction* ctx) : ResourceOpKernel(ctx) {
    std::string shared_name;
    float merge_wait_ms, worker_timeout_ms;
    OP_REQUIRES_OK(ctx, ctx->GetAttr("merge", &merge_));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_workers", &options_.num_workers));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("merge_wait_ms", &merge_wait_ms));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("worker_timeout_ms", &worker_timeout_ms));
    OP_REQUIRES_OK(ctx, ctx->GetAttr("shared_name", &shared_name));
    options_.merge = merge_ == "none"    ? Merge::kNone
                     : merge_ == "async" ? Merge::kAsync
                                         : Merge::kSync;
    options_.merge_wait_ms = merge_wait_ms;
    options_.worker_timeout_ms = worker_timeout_ms;
    options_.name = absl::StrCat("the meeting '", shared_name, "' on ", ctx->device()->name());
    OP_REQUIRES_OK(ctx, options_.Validate());
  }

 private:
  absl::Status CreateResource(MeetingResource** resource) override {
    absl::StatusOr<std::shared_ptr<Meeting>> meeting = Meeting::Open(options_);
    if (!meeting.ok()) return meeting.status();
    *resource = new MeetingResource(*std::move(meeting));
    return absl::OkStatus();
  }

  absl::Status VerifyResource(MeetingResource* resource) override {
    const MeetingOptions& open = resource->meeting().options();
    if (open.merge == options_.merge && open.num_workers == options_.num_workers &&
        open.merge_wait_ms == options_.merge_wait_ms &&
        open.worker_timeout_ms == options_.worker_timeout_ms) {
      return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat(
        open.name, " is open with other options than merge='", merge_,
        "', num_workers=", options_.num_workers, ", merge_wait_ms=", options_.merge_wait_ms,
        ", worker_timeout_ms=", options_.worker_timeout_ms, "; give it another name"));
  }

  std::string merge_;
  MeetingOptions options_;
};

// The request in a tensor. The tensors' copies share it, and end it together.
struct RequestVariant {
  std::shared_ptr<Request> request;

  std::string TypeName() const { return "amstf::Request"; }
  std::string DebugString() const { return "a request of a meeting"; }
  // A request means nothing elsewhere; what arrives there has none, and is refused.
  void Encode(tensorflow::VariantTensorData* data) const { data->set_type_name(TypeName()); }
  bool Decode(const tensorflow::VariantTensorData& data) { return true; }
};

REGISTER_UNARY_VARIANT_DECODE_FUNCTION(RequestVariant, "amstf::Request");

// Null if the first input is not a request; the kernel's inputs keep it alive until it is done.
const std::shared_ptr<Request>* GetRequest(OpKernelContext* ctx) {
  const Tensor& tensor = ctx->input(0);
  const RequestVariant* variant =
      tensor.dims() == 0 ? tensor.scalar<Variant>()().get<RequestVariant>() : nullptr;
  return variant == nullptr || variant->request == nullptr ? nullptr : &variant->request;
}

absl::Status NotARequest(OpKernelContext* ctx) {
  return absl::InvalidArgumentError(absl::StrCat(
      "request is not one of AmsJoin on ", ctx->device()->name(),
      "; place AmsJoin, AmsShare and AmsJoinGradient on the same device, a server's CPU"));
}

absl::Status NotAMatrix(const char* name, const Tensor& tensor) {
  return absl::InvalidArgumentError(
      absl::StrCat(name, " must be a matrix, got shape ", tensor.shape().DebugString()));
}

// The rows of a tensor, which they keep alive.
Rows RowsOf(const Tensor& tensor) {
  const auto owner = std::make_shared<const Tensor>(tensor);
  return {owner->flat<float>().data(), owner->dim_size(0), owner->dim_size(1), owner};
}

// Ends the request if its step is cancelled before the returned `done` is called.
AsyncOpKernel::DoneCallback EndWithStep(OpKernelContext* ctx,
                                        const std::shared_ptr<Request>& request,
                                        AsyncOpKernel::DoneCallback done) {
  tensorflow::CancellationManager* manager = ctx->cancellation_manager();
  if (manager == nullptr) return done;
  const tensorflow::CancellationToken token = manager->get_cancellation_token();
  const bool is_registered =
      manager->RegisterCallback(token, [weak = std::weak_ptr<Request>(request)] {
        if (const std::shared_ptr<Request> live = weak.lock()) live->Cancel();
      });
  if (!is_registered) {
    request->Cancel();
    return done;
  }
  return [manager, token, done = std::move(done)] {
    // Not DeregisterCallback, which waits for the callbacks of a cancellation: this may be one.
    manager->TryDeregisterCallback(token);
    done();
  };
}

// What went wrong; an error that only follows from a cancellation does not hide what led to it.
absl::Status Explained(OpKernelContext* ctx, const absl::Status& status) {
  tensorflow::CancellationManager* manager = ctx->cancellation_manager();
  if (!absl::IsCancelled(status) || manager == nullptr || !manager->IsCancelled()) return status;
  return tsl::StatusGroup::MakeDerived(status);
}

class JoinOp : public AsyncOpKernel {
 public:
  using AsyncOpKernel::AsyncOpKernel;

  void ComputeAsync(OpKernelContext* ctx, DoneCallback done) override {
    tensorflow::core::RefCountPtr<MeetingResource> resource;
    OP_REQUIRES_OK_ASYNC(
        ctx, tensorflow::LookupResource(ctx, tensorflow::HandleFromInput(ctx, 0), &resource), done);
    OP_REQUIRES_ASYNC(ctx, ctx->input(1).dims() == 1,
                      absl::InvalidArgumentError(absl::StrCat("ids must be a vector, got shape ",
                                                              ctx->input(1).shape().DebugString())),
                      done);
    for (int i = 2; i < 6; ++i) {
      OP_REQUIRES_ASYNC(
          ctx, ctx->input(i).dims() == 0,
          absl::InvalidArgumentError(absl::StrCat(kScalars[i - 2], " must be a scalar, got shape ",
                                                  ctx->input(i).shape().DebugString())),
          done);
    }
    const absl::Span<const int64_t> ids(ctx->input(1).flat<int64_t>().data(),
                                        ctx->input(1).NumElements());
    const auto negative = std::find_if(ids.begin(), ids.end(), [](int64_t id) { return id < 0; });
    OP_REQUIRES_ASYNC(ctx, negative == ids.end(),
                      absl::InvalidArgumentError(absl::StrCat(
                          "ids has ", negative == ids.end() ? 0 : *negative, " at position ",
                          negative - ids.begin(), "; wanted image ids, leave out \"no image\"")),
                      done);
    SyncRound sync;
    sync.number = ctx->input(3).scalar<int64_t>()();
    sync.num_participants = ctx->input(4).scalar<int32_t>()();
    sync.leads = ctx->input(5).scalar<bool>()();

    std::shared_ptr<Request> request =
        resource->meeting().NewRequest(ctx->input(2).scalar<int32_t>()(), ids);
    Request* const joining = request.get();
    done = EndWithStep(ctx, request, std::move(done));
    // From here on the callback owns the request; the output does, once it has joined.
    resource->meeting().Join(joining, sync,
                             [ctx, done = std::move(done),
                              request = std::move(request)](const absl::Status& status) mutable {
                               if (status.ok()) {
                                 SetOutputs(ctx, std::move(request));
                               } else {
                                 ctx->SetStatus(Explained(ctx, status));
                               }
                               request = nullptr;
                               done();
                             });
  }

 private:
  static constexpr const char* kScalars[] = {"worker", "round", "num_participants", "leads"};

  static void SetOutputs(OpKernelContext* ctx, std::shared_ptr<Request> request) {
    const absl::Span<const int64_t> union_ids = request->union_ids();
    Tensor* out = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, {static_cast<int64_t>(union_ids.size())}, &out));
    std::copy(union_ids.begin(), union_ids.end(), out->flat<int64_t>().data());
    OP_REQUIRES_OK(ctx, ctx->allocate_output(2, {}, &out));
    out->scalar<bool>()() = request->is_leader();
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {}, &out));
    out->scalar<Variant>()() = RequestVariant{std::move(request)};
  }
};

class ShareOp : public AsyncOpKernel {
 public:
  explicit ShareOp(OpKernelConstruction* ctx) : AsyncOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("wire_bytes", &wire_bytes_));
  }

  void ComputeAsync(OpKernelContext* ctx, DoneCallback done) override {
    const std::shared_ptr<Request>* request = GetRequest(ctx);
    OP_REQUIRES_ASYNC(ctx, request != nullptr, NotARequest(ctx), done);
    OP_REQUIRES_ASYNC(ctx, ctx->input(1).dims() == 2, NotAMatrix("embeddings", ctx->input(1)),
                      done);
    done = EndWithStep(ctx, *request, std::move(done));
    (*request)->Share(RowsOf(ctx->input(1)), wire_bytes_,
                      [ctx, request = request->get(),
                       done = std::move(done)](const absl::StatusOr<Rows>& embeddings) {
                        if (embeddings.ok()) {
                          SetRows(ctx, *request, *embeddings);
                        } else {
                          ctx->SetStatus(Explained(ctx, embeddings.status()));
                        }
                        done();
                      });
  }

 private:
  static void SetRows(OpKernelContext* ctx, const Request& request, const Rows& embeddings) {
    if (request.is_leader() && request.is_union()) {
      ctx->set_output(0, ctx->input(1));
      return;
    }
    Tensor* out = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {request.num_ids(), embeddings.width}, &out));
    request.Gather(embeddings, out->flat<float>().data());
  }

  int wire_bytes_;
};

class JoinGradientOp : public AsyncOpKernel {
 public:
  explicit JoinGradientOp(OpKernelConstruction* ctx) : AsyncOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("wire_bytes", &wire_bytes_));
  }

  void ComputeAsync(OpKernelContext* ctx, DoneCallback done) override {
    const std::shared_ptr<Request>* request = GetRequest(ctx);
    OP_REQUIRES_ASYNC(ctx, request != nullptr, NotARequest(ctx), done);
    OP_REQUIRES_ASYNC(ctx, ctx->input(1).dims() == 2, NotAMatrix("gradient", ctx->input(1)), done);
    done = EndWithStep(ctx, *request, std::move(done));
    (*request)->JoinGradient(RowsOf(ctx->input(1)), wire_bytes_,
                             [ctx, done = std::move(done)](const absl::StatusOr<GradientSum>& sum) {
                               if (sum.ok()) {
                                 SetSum(ctx, *sum);
                               } else {
                                 ctx->SetStatus(Explained(ctx, sum.status()));
                               }
                               done();
                             });
  }

 private:
  static void SetSum(OpKernelContext* ctx, const GradientSum& sum) {
    Tensor* out = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, {}, &out));
    out->scalar<bool>()() = sum.is_leader();
    if (sum.is_own_gradient()) {
      ctx->set_output(0, ctx->input(1));
      return;
    }
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {sum.rows(), sum.width()}, &out));
    sum.Write(out->flat<float>().data());
  }

  int wire_bytes_;
};

class EndBackwardOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    const std::shared_ptr<Request>* request = GetRequest(ctx);
    OP_REQUIRES(ctx, request != nullptr, NotARequest(ctx));
    (*request)->EndBackward();
  }
};

class MeetingCountersOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    tensorflow::core::RefCountPtr<MeetingResource> resource;
    OP_REQUIRES_OK(ctx,
                   tensorflow::LookupResource(ctx, tensorflow::HandleFromInput(ctx, 0), &resource));
    const std::vector<int64_t> counters = resource->meeting().Counters();
    Tensor* out = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {kNumMeetingCounters}, &out));
    std::copy(counters.begin(), counters.end(), out->flat<int64_t>().data());
  }
};

REGISTER_KERNEL_BUILDER(Name("AmsMeeting").Device(tensorflow::DEVICE_CPU), MeetingOp);
REGISTER_KERNEL_BUILDER(Name("AmsJoin").Device(tensorflow::DEVICE_CPU), JoinOp);
REGISTER_KERNEL_BUILDER(Name("AmsShare").Device(tensorflow::DEVICE_CPU), ShareOp);
REGISTER_KERNEL_BUILDER(Name("AmsJoinGradient").Device(tensorflow::DEVICE_CPU), JoinGradientOp);
REGISTER_KERNEL_BUILDER(Name("AmsEndBackward").Device(tensorflow::DEVICE_CPU), EndBackwardOp);
REGISTER_KERNEL_BUILDER(Name("AmsMeetingCounters").Device(tensorflow::DEVICE_CPU),
                        MeetingCountersOp);

}  // namespace
}  // namespace amstf
