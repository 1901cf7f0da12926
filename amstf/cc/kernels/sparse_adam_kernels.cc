// Kernel of the op that updates the touched rows of a table with Adam.
#include <algorithm>
#include <array>
#include <optional>

#include "absl/strings/str_cat.h"
#include "amstf/cc/optimizer/adam.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/util/work_sharder.h"

namespace amstf {
namespace {

using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::Var;

constexpr int kNumVariables = 3;
constexpr std::array<const char*, kNumVariables> kVariableNames = {"weights", "first_moment",
                                                                   "second_moment"};

// Makes the tensor of a variable safe to be written in place: from now on readers copy it under the
// variable's lock, and a reader that still holds it keeps an old copy. As TensorFlow's own sparse
// updates do; call it with the lock held.
absl::Status MakeWritable(OpKernelContext* ctx, Var* variable) {
  Tensor* tensor = variable->tensor();
  if (!variable->copy_on_read_mode.load() && !tensor->RefCountIsOne()) {
    Tensor copy;
    tensorflow::AllocatorAttributes attributes;
    attributes.set_gpu_compatible(true);
    TF_RETURN_IF_ERROR(ctx->allocate_temp(tensor->dtype(), tensor->shape(), &copy, attributes));
    std::copy_n(tensor->flat<float>().data(), tensor->NumElements(), copy.flat<float>().data());
    *tensor = copy;
  }
  variable->copy_on_read_mode.store(true);
  return absl::OkStatus();
}

template <typename T>
class SparseAdamOp : public tensorflow::OpKernel {
 public:
  using OpKernel::OpKernel;

  void Compute(OpKernelContext* ctx) override {
    std::array<tensorflow::core::RefCountPtr<Var>, kNumVariables> variables;
    for (int i = 0; i < kNumVariables; ++i) {
      OP_REQUIRES_OK(
          ctx, tensorflow::LookupResource(ctx, tensorflow::HandleFromInput(ctx, i), &variables[i]));
    }
    for (int i = 5; i < 10; ++i) {
      OP_REQUIRES(ctx, ctx->input(i).dims() == 0,
                  absl::InvalidArgumentError(absl::StrCat("input ", i, " must be a scalar, got ",
                                                          ctx->input(i).shape().DebugString())));
    }
    const int64_t step_number = ctx->input(9).scalar<int64_t>()();
    OP_REQUIRES(ctx, step_number >= 1,
                absl::InvalidArgumentError(absl::StrCat("step counts from 1, got ", step_number)));
    const AdamStep step =
        AdamStep::Make(ctx->input(5).scalar<float>()(), Beta(ctx, 6), Beta(ctx, 7),
                       ctx->input(8).scalar<float>()(), step_number);

    // Always in the same order, that of the addresses: two ops that share variables cannot wait for
    // each other.
    std::array<Var*, kNumVariables> by_address;
    for (int i = 0; i < kNumVariables; ++i) by_address[i] = variables[i].get();
    std::sort(by_address.begin(), by_address.end());
    OP_REQUIRES(ctx, std::adjacent_find(by_address.begin(), by_address.end()) == by_address.end(),
                absl::InvalidArgumentError("weights and moments must be three variables"));
    std::array<std::optional<tensorflow::mutex_lock>, kNumVariables> locks;
    for (int i = 0; i < kNumVariables; ++i) locks[i].emplace(*by_address[i]->mu());

    OP_REQUIRES_OK(ctx, Check(ctx, variables));
    for (auto& variable : variables) OP_REQUIRES_OK(ctx, MakeWritable(ctx, variable.get()));

    const Tensor& gradient = ctx->input(3);
    const Tensor& rows = ctx->input(4);
    const int64_t width = RowWidth(*variables[0]->tensor());
    const float* gradients = gradient.flat<float>().data();
    const T* row = rows.flat<T>().data();
    float* weights = variables[0]->tensor()->template flat<float>().data();
    float* first = variables[1]->tensor()->template flat<float>().data();
    float* second = variables[2]->tensor()->template flat<float>().data();
    const auto& threads = *ctx->device()->tensorflow_cpu_worker_threads();
    tensorflow::Shard(threads.num_threads, threads.workers, rows.NumElements(), width * 20,
                      [&](int64_t begin, int64_t end) {
                        for (int64_t i = begin; i < end; ++i) {
                          const int64_t at = row[i] * width;
                          step.Apply(gradients + i * width, width, weights + at, first + at,
                                     second + at);
                        }
                      });
  }

 private:
  static float Beta(OpKernelContext* ctx, int index) { return ctx->input(index).scalar<float>()(); }

  static int64_t RowWidth(const Tensor& table) {
    return table.dim_size(0) == 0 ? 0 : table.NumElements() / table.dim_size(0);
  }

  static absl::Status Check(
      OpKernelContext* ctx,
      const std::array<tensorflow::core::RefCountPtr<Var>, kNumVariables>& variables) {
    const Tensor& table = *variables[0]->tensor();
    for (int i = 0; i < kNumVariables; ++i) {
      const Tensor& tensor = *variables[i]->tensor();
      if (!variables[i]->is_initialized || tensor.dtype() != tensorflow::DT_FLOAT) {
        return absl::FailedPreconditionError(
            absl::StrCat(kVariableNames[i], " is not an initialized float variable"));
      }
      if (tensor.dims() < 1 || tensor.shape() != table.shape()) {
        return absl::InvalidArgumentError(absl::StrCat(kVariableNames[i], " has shape ",
                                                       tensor.shape().DebugString(), ", weights ",
                                                       table.shape().DebugString()));
      }
    }
    const Tensor& gradient = ctx->input(3);
    const Tensor& rows = ctx->input(4);
    tensorflow::TensorShape wanted = table.shape();
    if (rows.dims() == 1) wanted.set_dim(0, rows.NumElements());
    if (rows.dims() != 1 || gradient.shape() != wanted) {
      return absl::InvalidArgumentError(
          absl::StrCat("gradient has shape ", gradient.shape().DebugString(), " and rows ",
                       rows.shape().DebugString(), "; wanted a gradient for each row of ",
                       table.shape().DebugString()));
    }
    for (int64_t i = 0; i < rows.NumElements(); ++i) {
      const int64_t row = rows.flat<T>()(i);
      if (row < 0 || row >= table.dim_size(0)) {
        return absl::InvalidArgumentError(
            absl::StrCat("row ", row, " is outside the table of ", table.dim_size(0), " rows"));
      }
    }
    return absl::OkStatus();
  }
};

REGISTER_KERNEL_BUILDER(
    Name("AmsSparseAdam").Device(tensorflow::DEVICE_CPU).TypeConstraint<int32_t>("T"),
    SparseAdamOp<int32_t>);
REGISTER_KERNEL_BUILDER(
    Name("AmsSparseAdam").Device(tensorflow::DEVICE_CPU).TypeConstraint<int64_t>("T"),
    SparseAdamOp<int64_t>);

}  // namespace
}  // namespace amstf
