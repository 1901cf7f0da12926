// Declaration of the op that reads stretches of TFRecord files.
#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"

namespace amstf {
namespace {

using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("AmsReadRecords")
    .Input("paths: string")
    .Input("offsets: int64")
    .Input("sizes: int64")
    .Output("records: string")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle stretches;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 1, &stretches));
      TF_RETURN_IF_ERROR(c->Merge(stretches, c->input(1), &stretches));
      TF_RETURN_IF_ERROR(c->Merge(stretches, c->input(2), &stretches));
      c->set_output(0, c->Vector(InferenceContext::kUnknownDim));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Reads the records that lie in stretches of TFRecord files, stretch after stretch.

paths: file of each stretch, [r].
offsets: where its first record begins, in bytes, [r].
sizes: length of the stretch in bytes; it ends with a record, [r].
records: the records, [n].
)doc");

}  // namespace
}  // namespace amstf
