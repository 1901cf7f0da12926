// Declarations of the ops that keep a replica of E and its gradients between two exchanges.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace amstf {
namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("AmsReplicaState")
    .Output("handle: resource")
    .Attr("sync_every: int >= 1")
    .Attr("container: string = ''")
    .Attr("shared_name: string = ''")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      c->set_output(0, c->Scalar());
      return absl::OkStatus();
    })
    .Doc(R"doc(
Makes, or finds by its name, the state of one replica of E on a server.

handle: the state.
sync_every: rounds between two exchanges of the replica with E.
)doc");

REGISTER_OP("AmsBeginRound")
    .Input("handle: resource")
    .Input("is_leader: bool")
    .Output("refresh: bool")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle scalar;
      for (int i = 0; i < 2; ++i) TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &scalar));
      c->set_output(0, c->Scalar());
      return absl::OkStatus();
    })
    .Doc(R"doc(
Begins a round of a replica and tells whether it is to be refreshed from E.

handle: the state of the replica.
is_leader: whether the caller computes the round; the others do not count.
refresh: true for the leader of rounds 0, sync_every, 2 * sync_every, ...
)doc");

REGISTER_OP("AmsAccumulateGradients")
    .Input("handle: resource")
    .Input("gradients: N * float")
    .Output("sums: N * float")
    .Attr("N: int >= 1")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle handle;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &handle));
      for (int i = 0; i < c->num_outputs(); ++i) {
        // A gradient [...], or [0] in the rounds between two exchanges.
        const bool is_vector = c->RankKnown(c->input(i + 1)) && c->Rank(c->input(i + 1)) == 1;
        c->set_output(i, is_vector ? c->Vector(c->UnknownDim()) : c->UnknownShape());
      }
      return absl::OkStatus();
    })
    .Doc(R"doc(
Keeps the gradients of a round, or gives their sums since the last exchange.

handle: the state of the replica.
gradients: the gradients of this round, one for each variable of E; the same shapes each time.
sums: in every sync_every-th call the sums, each of the shape of its gradient; otherwise [0].
)doc");

REGISTER_OP("AmsSumPresent")
    .Input("parts: N * float")
    .Output("sum: float")
    .Output("is_present: bool")
    .Attr("N: int >= 1")
    .Attr("num_elements: int >= 1")
    .SetShapeFn([](InferenceContext* c) {
      bool vectors = true;
      for (int i = 0; i < c->num_inputs(); ++i) {
        vectors &= c->RankKnown(c->input(i)) && c->Rank(c->input(i)) == 1;
      }
      c->set_output(0, vectors ? c->Vector(c->UnknownDim()) : c->UnknownShape());
      c->set_output(1, c->Scalar());
      return absl::OkStatus();
    })
    .Doc(R"doc(
Sums those of the parts that are there; an empty part stands for an absent one.

The sum is formed in the order of the parts.

parts: each has num_elements elements, or none.
sum: of the shape of the first part that is there, or [0] if none is.
is_present: whether any part is there.
num_elements: elements of a part that is there.
)doc");

}  // namespace
}  // namespace amstf
