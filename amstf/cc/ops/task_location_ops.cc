// Declaration of the op that tells which task of the cluster runs it.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"

namespace amstf {
namespace {

REGISTER_OP("AmsTaskLocation")
    .Output("job: string")
    .Output("task: int32")
    .SetIsStateful()
    .SetShapeFn([](tensorflow::shape_inference::InferenceContext* c) {
      c->set_output(0, c->Scalar());
      c->set_output(1, c->Scalar());
      return absl::OkStatus();
    })
    .Doc(R"doc(
Tells the job and the task index of the device that runs the op.

Under ParameterServerStrategy neither a step function nor an input pipeline is told which worker runs
it; the device of a kernel knows.

job: "worker", "ps", "chief", or "localhost" without a cluster.
task: index of the task in its job.
)doc");

}  // namespace
}  // namespace amstf
