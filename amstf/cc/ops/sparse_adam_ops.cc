// Declaration of the op that updates the touched rows of a table with Adam.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace amstf {
namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("AmsSparseAdam")
    .Input("weights: resource")
    .Input("first_moment: resource")
    .Input("second_moment: resource")
    .Input("gradient: float")
    .Input("rows: T")
    .Input("learning_rate: float")
    .Input("beta1: float")
    .Input("beta2: float")
    .Input("epsilon: float")
    .Input("step: int64")
    .Attr("T: {int32, int64}")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle gradient, rows, scalar;
      TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(3), 1, &gradient));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(4), 1, &rows));
      tensorflow::shape_inference::DimensionHandle count;
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(gradient, 0), c->Dim(rows, 0), &count));
      for (int i = 5; i < 10; ++i) TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &scalar));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Updates the rows of a table that a batch touched with one step of Adam.

Moments and weights of a row change together, under the locks of all three variables: two workers
cannot see, or make, a row whose first moment is new and whose second is old. Rows that are not
touched cost nothing and keep their moments (lazy Adam).

weights: variable [V, ...] float.
first_moment: variable of the same shape.
second_moment: variable of the same shape.
gradient: [n, ...], the gradients of the rows.
rows: [n], the rows, each at most once.
learning_rate: scalar.
beta1: scalar, decay of the first moment.
beta2: scalar, decay of the second moment.
epsilon: scalar, added to the root of the second moment.
step: scalar, number of the step, from 1.
)doc");

}  // namespace
}  // namespace amstf
