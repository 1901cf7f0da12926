// Kernel of the op that tells which task of the cluster runs it.
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/util/device_name_utils.h"

namespace amstf {
namespace {

class TaskLocationOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(tensorflow::OpKernelContext* ctx) override {
    const tensorflow::DeviceNameUtils::ParsedName& name = ctx->device()->parsed_name();
    tensorflow::Tensor* job = nullptr;
    tensorflow::Tensor* task = nullptr;
    OP_REQUIRES_OK(ctx, ctx->allocate_output(0, {}, &job));
    OP_REQUIRES_OK(ctx, ctx->allocate_output(1, {}, &task));
    job->scalar<tensorflow::tstring>()() = name.job;
    task->scalar<int32_t>()() = name.task;
  }
};

REGISTER_KERNEL_BUILDER(Name("AmsTaskLocation").Device(tensorflow::DEVICE_CPU), TaskLocationOp);

}  // namespace
}  // namespace amstf
