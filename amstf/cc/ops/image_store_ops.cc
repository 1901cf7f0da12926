// Declarations of the ops that read image stores.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace amstf {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeAndType;
using tensorflow::shape_inference::ShapeHandle;

REGISTER_OP("AmsImageStore")
    .Output("handle: resource")
    .Attr("paths: list(string) >= 1")
    .Attr("file_bytes: list(int)")
    .Attr("rows: list(int)")
    .Attr("ids_offsets: list(int)")
    .Attr("features_offsets: list(int)")
    .Attr("width: int >= 1")
    .Attr("dtype: {float, half, uint8}")
    .Attr("scales_offsets: list(int) = []")
    .Attr("num_servers: int >= 1 = 1")
    .Attr("server: int >= 0 = 0")
    .Attr("container: string = ''")
    .Attr("shared_name: string = ''")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      int64_t width;
      TF_RETURN_IF_ERROR(c->GetAttr("width", &width));
      c->set_output(0, c->Scalar());
      // The handle carries [images, F], so that a lookup knows its width before it runs.
      c->set_output_handle_shapes_and_types(
          0, std::vector<ShapeAndType>{
                 {c->MakeShape({c->UnknownDim(), c->MakeDim(width)}), tensorflow::DT_FLOAT}});
      return absl::OkStatus();
    })
    .Doc(R"doc(
Opens an image store on the device where the op is placed, once per process.

The files are mapped; a server indexes only the ids of its own buckets, in O(ids).

handle: the open store; its handle data is [images, F] float.
paths: HDF5 files, each with contiguous datasets `ids` int64 and `features`.
file_bytes: size in bytes of each file.
rows: images in each file.
ids_offsets: byte offset of `ids` in each file.
features_offsets: byte offset of `features` in each file.
width: features of an image (F).
dtype: type of the stored features.
scales_offsets: byte offset, in each file of uint8 features, of a scale and an offset (two floats)
for each image; a feature is offset + scale * q.
num_servers: servers over which the buckets are spread (S).
server: index of the server that this handle is for.
)doc");

REGISTER_OP("AmsImageLookup")
    .Input("handle: resource")
    .Input("ids: int64")
    .Output("features: float")
    .Output("found: bool")
    .Attr("missing: {'error', 'zeros'} = 'error'")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle handle, ids;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &handle));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &ids));
      DimensionHandle width = c->UnknownDim();
      const std::vector<ShapeAndType>* store = c->input_handle_shapes_and_types(0);
      if (store != nullptr && store->size() == 1 && c->Rank((*store)[0].shape) == 2) {
        width = c->Dim((*store)[0].shape, 1);
      }
      c->set_output(0, c->MakeShape({c->Dim(ids, 0), width}));
      c->set_output(1, c->Vector(c->Dim(ids, 0)));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Reads the raw features of images from a store.

handle: the store.
ids: image ids [n]; a negative id means "no image" and gives zeros.
features: [n, F].
found: [n], whether the store holds the id; where it does not, the features are zeros.
missing: what an id that the store lacks does: fail with NotFound, or give zeros.
)doc");

REGISTER_OP("AmsImageStoreCounters")
    .Input("handle: resource")
    .Output("counters: int64")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle handle;
      TF_RETURN_IF_ERROR(c->WithRank(c->input(0), 0, &handle));
      c->set_output(0, c->Vector(5));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Counts what a store has served since it was opened.

handle: the store.
counters: images held, lookups, ids asked for (without "no image"), ids missing, nanoseconds in
lookups.
)doc");

}  // namespace
}  // namespace amstf
