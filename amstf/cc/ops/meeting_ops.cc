// Declarations of the ops that merge the requests of several workers on a server.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace amstf {
namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("AmsMeeting")
    .Output("handle: resource")
    .Attr("merge: {'none', 'async', 'sync'} = 'none'")
    .Attr("num_workers: int >= 1 = 1")
    .Attr("merge_wait_ms: float = 5.0")
    .Attr("worker_timeout_ms: float = 10000.0")
    .Attr("container: string = ''")
    .Attr("shared_name: string = ''")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::ScalarShape)
    .Doc(R"doc(
Opens a meeting on the device where the op is placed, once per process and shared_name.

Requests that meet there have each of their images embedded once, and their gradients summed.

handle: the meeting.
merge: which requests meet: each by itself, those that come within merge_wait_ms, or those of one
synchronous round.
num_workers: workers of the cluster (W).
merge_wait_ms: how long a round of 'async' waits for others, milliseconds.
worker_timeout_ms: after this time without a sign a worker is taken for lost, milliseconds.
)doc");

REGISTER_OP("AmsJoin")
    .Input("handle: resource")
    .Input("ids: int64")
    .Input("worker: int32")
    .Input("round: int64")
    .Input("num_participants: int32")
    .Input("leads: bool")
    .Output("request: variant")
    .Output("union_ids: int64")
    .Output("is_leader: bool")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle scalar, ids;
      for (int i : {0, 2, 3, 4, 5}) TF_RETURN_IF_ERROR(c->WithRank(c->input(i), 0, &scalar));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &ids));
      c->set_output(0, c->Scalar());
      c->set_output(1, c->Vector(c->UnknownDim()));
      c->set_output(2, c->Scalar());
      return absl::OkStatus();
    })
    .Doc(R"doc(
Joins a round of requests and waits, without a thread, until the round is closed.

The request never leaves the device, and ends with the last reference to it: then nobody waits for
it any longer.

handle: the meeting.
ids: image ids [n], none negative; duplicates are fine.
worker: index of the worker that asks; negative: unknown, it meets nobody.
round: number of the synchronous round; negative: in none.
num_participants: workers in the synchronous round.
leads: whether this worker leads the synchronous round.
request: what AmsShare and AmsJoinGradient take.
union_ids: [U] for the leader, the distinct ids of all requests of the round; [0] for the others.
is_leader: whether this request embeds union_ids for its round.
)doc");

REGISTER_OP("AmsShare")
    .Input("request: variant")
    .Input("embeddings: float")
    .Output("rows: float")
    .Attr("wire_bytes: int >= 1 = 4")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle request, embeddings;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &request));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &embeddings));
      c->set_output(0, c->MakeShape({c->UnknownDim(), c->Dim(embeddings, 1)}));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Gives every request of a round its rows of what the leader embedded.

Fails with Cancelled, which makes TensorFlow's coordinator run the step again, if the leader is gone
or hangs.

request: from AmsJoin.
embeddings: [U, D] of union_ids; of the others [0, D].
rows: [n, D], the embeddings of the request's own ids.
wire_bytes: bytes of one value on its way to the worker, for the counters.
)doc");

REGISTER_OP("AmsJoinGradient")
    .Input("request: variant")
    .Input("gradient: float")
    .Output("sum: float")
    .Output("is_leader: bool")
    .Attr("wire_bytes: int >= 1 = 4")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle request, gradient;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &request));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 2, &gradient));
      c->set_output(0, c->MakeShape({c->UnknownDim(), c->Dim(gradient, 1)}));
      c->set_output(1, c->Scalar());
      return absl::OkStatus();
    })
    .Doc(R"doc(
Gives the leader of a round the gradients of all its requests, summed per id.

The leader waits, without a thread, until each request has brought its gradient or is gone; the
others go on at once.

request: from AmsJoin.
gradient: [n, D] of the rows that AmsShare gave.
sum: for the leader [U, D], in the order of union_ids; in a meeting with merge='sync' the mean over
the requests that brought a gradient. [0, D] for the others.
is_leader: whether this request leads its round.
wire_bytes: bytes of one value on its way from the worker, for the counters.
)doc");

REGISTER_OP("AmsEndBackward")
    .Input("request: variant")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle request;
      return c->WithRank(c->input(0), 0, &request);
    })
    .Doc(R"doc(
Says that a leader has back-propagated the sum of its round, for the counters.

request: from AmsJoin.
)doc");

REGISTER_OP("AmsMeetingCounters")
    .Input("handle: resource")
    .Output("counters: int64")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle handle;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &handle));
      c->set_output(0, c->Vector(14));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Counts what a meeting has done since it was opened.

handle: the meeting.
counters: requests, ids asked for, distinct ids over rounds, rounds, requests in rounds of more than
one, requests that ended too soon for their round, gradients dropped because nobody was left to use
them, bytes of ids and gradients, bytes of rows, nanoseconds from join to close, from close to the
leader's embeddings, from the leader's gradient to the sum, and requests open now.
)doc");

}  // namespace
}  // namespace amstf
