// Declarations of the ops of synchronous rounds.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace amstf {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

absl::Status HandleShape(InferenceContext* c) {
  c->set_output(0, c->Scalar());
  return absl::OkStatus();
}

absl::Status CheckScalars(InferenceContext* c, int first, int last) {
  ShapeHandle scalar;
  for (int i = first; i <= last; ++i) TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &scalar));
  return absl::OkStatus();
}

REGISTER_OP("AmsRoundTable")
    .Output("handle: resource")
    .Attr("num_workers: int >= 1")
    .Attr("worker_timeout_ms: float")
    .Attr("container: string = ''")
    .Attr("shared_name: string = ''")
    .SetIsStateful()
    .SetShapeFn(HandleShape)
    .Doc(R"doc(
Makes, or finds by its name, the table at which workers enter synchronous rounds.

handle: the table.
num_workers: workers of the program, all taken for live at first.
worker_timeout_ms: after this time a round closes without the workers that did not enter it.
)doc");

REGISTER_OP("AmsEnterRound")
    .Input("handle: resource")
    .Input("worker: int32")
    .Output("round: int64")
    .Output("num_participants: int32")
    .Output("leads: bool")
    .Attr("enabled: bool = true")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      TF_RETURN_IF_ERROR(CheckScalars(c, 0, 1));
      for (int i = 0; i < 3; ++i) c->set_output(i, c->Scalar());
      return absl::OkStatus();
    })
    .Doc(R"doc(
Waits until all live workers have entered the next synchronous round.

handle: the table.
worker: index of the worker that enters.
round: number of the round from 0, or -1 if there is none.
num_participants: workers in the round.
leads: whether this worker leads it; one does.
enabled: false gives -1, 1 and true at once.
)doc");

REGISTER_OP("AmsRoundCounters")
    .Input("handle: resource")
    .Output("counters: int64")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      TF_RETURN_IF_ERROR(CheckScalars(c, 0, 0));
      c->set_output(0, c->Vector(6));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Counts the rounds of a table since it was made.

handle: the table.
counters: rounds closed, entries in them, rounds closed by the timeout, nanoseconds that workers
waited; workers live now, workers waiting now.
)doc");

REGISTER_OP("AmsGradientMean")
    .Output("handle: resource")
    .Attr("worker_timeout_ms: float")
    .Attr("container: string = ''")
    .Attr("shared_name: string = ''")
    .SetIsStateful()
    .SetShapeFn(HandleShape)
    .Doc(R"doc(
Makes, or finds by its name, the place where the gradients of one variable meet.

handle: the place.
worker_timeout_ms: the leader of a round waits this long for the gradients of the others.
)doc");

REGISTER_OP("AmsMeanGradient")
    .Input("handle: resource")
    .Input("gradient: float")
    .Input("worker: int32")
    .Input("round: int64")
    .Input("num_participants: int32")
    .Input("leads: bool")
    .Output("mean: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      TF_RETURN_IF_ERROR(CheckScalars(c, 0, 0));
      TF_RETURN_IF_ERROR(CheckScalars(c, 2, 5));
      // [...] for the leader, [0] for the others.
      const bool is_vector = c->RankKnown(c->input(1)) && c->Rank(c->input(1)) == 1;
      c->set_output(0, is_vector ? c->Vector(c->UnknownDim()) : c->UnknownShape());
      return absl::OkStatus();
    })
    .Doc(R"doc(
Hands in a worker's gradient of a variable, and gives the leader of the round the mean.

The sum is formed in the order of the workers. A leader whose round has ended without it gets [0].

handle: where the gradients of the variable meet.
gradient: the worker's gradient [...], of one shape in a round.
worker: index of the worker.
round: number of the round; below 0 the gradient is returned as it is.
num_participants: workers in the round.
leads: whether this worker leads the round; the others do not wait.
mean: [...] for the leader, over those that handed in; [0] for the others.
)doc");

REGISTER_OP("AmsMeanSparseGradient")
    .Input("handle: resource")
    .Input("values: float")
    .Input("indices: T")
    .Input("worker: int32")
    .Input("round: int64")
    .Input("num_participants: int32")
    .Input("leads: bool")
    .Output("mean_values: float")
    .Output("mean_indices: T")
    .Attr("T: {int32, int64}")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle values, indices, mean;
      DimensionHandle count;
      TF_RETURN_IF_ERROR(CheckScalars(c, 0, 0));
      TF_RETURN_IF_ERROR(c->WithRankAtLeast(c->input(1), 1, &values));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &indices));
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(values, 0), c->Dim(indices, 0), &count));
      TF_RETURN_IF_ERROR(CheckScalars(c, 3, 6));
      const DimensionHandle rows = c->UnknownDim();
      mean = c->UnknownShape();
      if (c->RankKnown(values)) TF_RETURN_IF_ERROR(c->ReplaceDim(values, 0, rows, &mean));
      c->set_output(0, mean);
      c->set_output(1, c->Vector(rows));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Hands in a worker's gradient of some rows of a variable, and gives the leader of the round the mean.

A worker that did not touch a row counts as zero for it. The sums are formed in the order of the
workers. A leader whose round has ended without it gets no rows.

handle: where the gradients of the variable meet.
values: gradients of rows [n, ...]; [...] is the same in a round.
indices: the rows [n]; those that stand twice are summed.
worker: index of the worker.
round: number of the round; below 0 the mean is over this gradient alone.
num_participants: workers in the round.
leads: whether this worker leads the round; the others do not wait.
mean_values: [u, ...] for the leader, over those that handed in; [0, ...] for the others.
mean_indices: the rows [u], each once, ascending.
)doc");

REGISTER_OP("AmsGradientMeanCounters")
    .Input("handle: resource")
    .Output("counters: int64")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      TF_RETURN_IF_ERROR(CheckScalars(c, 0, 0));
      c->set_output(0, c->Vector(7));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Counts the rounds of one variable since the place where its gradients meet was made.

handle: where the gradients of the variable meet.
counters: means formed, gradients in them, means that lack a participant's gradient, rounds that
changed nothing because their leader did not come or gave up, gradients that came too late,
nanoseconds that leaders waited; rounds open now.
)doc");

}  // namespace
}  // namespace amstf
