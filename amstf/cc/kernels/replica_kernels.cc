// Kernels of the ops that keep a replica of E: they unpack tensors and call amstf::ReplicaState.
#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "amstf/cc/rounds/replica_state.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_op_kernel.h"

namespace amstf {
namespace {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class ReplicaStateResource : public tensorflow::ResourceBase {
 public:
  explicit ReplicaStateResource(int64_t sync_every) : state_(sync_every) {}

  ReplicaState& state() { return state_; }
  std::string DebugString() const override {
    return absl::StrCat("replica exchanged every ", state_.sync_every(), " rounds");
  }

 private:
  ReplicaState state_;
};

class ReplicaStateOp : public tensorflow::ResourceOpKernel<ReplicaStateResource> {
 public:
  explicit ReplicaStateOp(OpKernelConstruction* ctx) : ResourceOpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("sync_every", &sync_every_));
    OP_REQUIRES_OK(ctx, ReplicaState::Validate(sync_every_));
  }

 private:
  absl::Status CreateResource(ReplicaStateResource** resource) override {
    *resource = new ReplicaStateResource(sync_every_);
    return absl::OkStatus();
  }

  absl::Status VerifyResource(ReplicaStateResource* resource) override {
    if (resource->state().sync_every() == sync_every_) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("sync_every is ", sync_every_, ", but the state of this name was made with ",
                     resource->state().sync_every(), "; use another shared_name"));
  }

  int64_t sync_every_;
};

absl::Status FindState(OpKernelContext* ctx,
                       tensorflow::core::RefCountPtr<ReplicaStateResource>* resource) {
  return tensorflow::LookupResource(ctx, tensorflow::HandleFromInput(ctx, 0), resource);
}

class BeginRoundOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    tensorflow::core::RefCountPtr<ReplicaStateResource> resource;
    OP_REQUIRES_OK(ctx, FindState(ctx, &resource));
    const Tensor& is_leader = ctx->input(1);
    OP_REQUIRES(ctx, is_leader.dims() == 0,
                absl::InvalidArgumentError(absl::StrCat("is_leader must be a scalar, got shape ",
                                                        is_leader.shape().DebugString())));
    Tensor* refresh = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {}, &refresh));
    refresh->scalar<bool>()() = resource->state().BeginRound(is_leader.scalar<bool>()());
  }
};

class AccumulateGradientsOp : public OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    tensorflow::core::RefCountPtr<ReplicaStateResource> resource;
    OP_REQUIRES_OK(ctx, FindState(ctx, &resource));
    const int count = ctx->num_outputs();
    if (resource->state().sync_every() == 1) {
      for (int i = 0; i < count; ++i) ctx->set_output(i, ctx->input(i + 1));
      return;
    }
    std::vector<absl::Span<const float>> gradients;
    for (int i = 0; i < count; ++i) {
      const Tensor& gradient = ctx->input(i + 1);
      gradients.emplace_back(gradient.flat<float>().data(), gradient.NumElements());
    }
    const auto sums = resource->state().Accumulate(gradients);
    OP_REQUIRES_OK(ctx, sums.status());
    for (int i = 0; i < count; ++i) {
      Tensor* out = nullptr;
      if (sums->empty()) {
        OP_REQUIRES_OK(ctx, ctx->allocate_output(i, {0}, &out));
        continue;
      }
      OP_REQUIRES_OK(ctx, ctx->allocate_output(i, ctx->input(i + 1).shape(), &out));
      std::copy((*sums)[i].begin(), (*sums)[i].end(), out->flat<float>().data());
    }
  }
};

class SumPresentOp : public OpKernel {
 public:
  explicit SumPresentOp(OpKernelConstruction* ctx) : OpKernel(ctx) {
    OP_REQUIRES_OK(ctx, ctx->GetAttr("num_elements", &num_elements_));
  }

  void Compute(OpKernelContext* ctx) override {
    std::vector<int> present;
    for (int i = 0; i < ctx->num_inputs(); ++i) {
      const Tensor& part = ctx->input(i);
      if (part.NumElements() == 0) continue;
      OP_REQUIRES(ctx, part.NumElements() == num_elements_,
                  absl::InvalidArgumentError(absl::StrCat(
                      "part ", i, " has shape ", part.shape().DebugString(), ", wanted ",
                      num_elements_, " elements, or none for an absent part")));
      present.push_back(i);
    }
    Tensor* is_present = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, {}, &is_present));
    is_present->scalar<bool>()() = !present.empty();
    Tensor* sum = nullptr;
    if (present.empty()) {
      OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {0}, &sum));
      return;
    }
    const Tensor first = ctx->input(present[0]);
    if (present.size() == 1) {
      ctx->set_output(0, first);
      return;
    }
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, first.shape(), &sum));
    auto out = sum->flat<float>();
    out = first.flat<float>() + ctx->input(present[1]).flat<float>();
    for (size_t i = 2; i < present.size(); ++i) out += ctx->input(present[i]).flat<float>();
  }

 private:
  int64_t num_elements_;
};

REGISTER_KERNEL_BUILDER(Name("AmsReplicaState").Device(tensorflow::DEVICE_CPU), ReplicaStateOp);
REGISTER_KERNEL_BUILDER(Name("AmsBeginRound").Device(tensorflow::DEVICE_CPU), BeginRoundOp);
REGISTER_KERNEL_BUILDER(Name("AmsAccumulateGradients").Device(tensorflow::DEVICE_CPU),
                        AccumulateGradientsOp);
REGISTER_KERNEL_BUILDER(Name("AmsSumPresent").Device(tensorflow::DEVICE_CPU), SumPresentOp);

}  // namespace
}  // namespace amstf
