// Declarations of the ops of dynamic tables: rows that are born as their ids appear.
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace amstf {
namespace {

using tensorflow::shape_inference::DimensionHandle;
using tensorflow::shape_inference::InferenceContext;
using tensorflow::shape_inference::ShapeAndType;
using tensorflow::shape_inference::ShapeHandle;

constexpr int kNumCounters = 11;
constexpr int kNumSeen = 3;

// D, if the handle tells.
DimensionHandle Width(InferenceContext* c) {
  const std::vector<ShapeAndType>* table = c->input_handle_shapes_and_types(0);
  if (table != nullptr && table->size() == 1 && c->Rank((*table)[0].shape) == 2) {
    return c->Dim((*table)[0].shape, 1);
  }
  return c->UnknownDim();
}

absl::Status WantScalars(InferenceContext* c, std::initializer_list<int> inputs) {
  ShapeHandle scalar;
  for (int input : inputs) TF_RETURN_IF_ERROR(c->WithRank(c->input(input), 0, &scalar));
  return absl::OkStatus();
}

REGISTER_OP("AmsDynamicTable")
    .Output("handle: resource")
    .Attr("width: int >= 1")
    .Attr("initializer: {'constant', 'uniform', 'normal'}")
    .Attr("initializer_values: list(float)")
    .Attr("seed: int = 0")
    .Attr("admit_after: int = 1")
    .Attr("filter_bytes: int = 0")
    .Attr("admit_probability: float = 1.0")
    .Attr("without_row: {'zeros', 'initial'} = 'zeros'")
    .Attr("max_rows: int = 0")
    .Attr("max_bytes: int = 0")
    .Attr("at_limit: {'refuse', 'least_recent', 'least_frequent'} = 'least_recent'")
    .Attr("container: string = ''")
    .Attr("shared_name: string = ''")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      int64_t width;
      TF_RETURN_IF_ERROR(c->GetAttr("width", &width));
      c->set_output(0, c->Scalar());
      // The handle carries [rows, D], so that a lookup knows its width before it runs.
      c->set_output_handle_shapes_and_types(
          0, std::vector<ShapeAndType>{
                 {c->MakeShape({c->UnknownDim(), c->MakeDim(width)}), tensorflow::DT_FLOAT}});
      return absl::OkStatus();
    })
    .Doc(R"doc(
Makes a table of rows that are born as their ids appear, or finds it by its name.

handle: the table; its handle data is [rows, D] float.
width: floats of a row (D).
initializer: what a row begins with, a function of the seed and its id alone.
initializer_values: the constant; or lower and upper bound; or mean and standard deviation.
seed: of the initial values and of admission with a probability.
admit_after: an id gets a row when it has been seen so often, 1 to 255.
filter_bytes: size of the counting Bloom filter that counts ids without a row.
admit_probability: an id is admitted with this probability each time that it is seen.
without_row: what a lookup gives for an id without a row.
max_rows: of the table; 0 is no limit.
max_bytes: of rows, index and filter; 0 is no limit.
at_limit: whether a new id is refused at the limit, or which row makes place for it.
)doc");

REGISTER_OP("AmsDynamicLookup")
    .Input("handle: resource")
    .Input("ids: int64")
    .Input("sights: int32")
    .Input("training: bool")
    .Output("rows: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle ids, sights;
      TF_RETURN_IF_ERROR(WantScalars(c, {0, 3}));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &ids));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 1, &sights));
      c->set_output(0, c->MakeShape({c->Dim(ids, 0), Width(c)}));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Looks up the rows of ids, and in training sees the ids and admits them.

handle: the table.
ids: [n], any 64-bit numbers, also several times; -1 is no id: zeros, and never seen.
sights: [n], how often each id occurs in the batch, at least 1; or [0] for once each.
training: whether ids are seen: one step of the table's clock.
rows: [n, D]; of an id without a row as the table's `without_row` says.
)doc");

REGISTER_OP("AmsDynamicApply")
    .Input("handle: resource")
    .Input("ids: int64")
    .Input("gradients: float")
    .Input("settings: float")
    .Input("step: int64")
    .Attr("rule: {'sgd', 'adagrad', 'adam', 'ftrl'}")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle ids, gradients, settings;
      TF_RETURN_IF_ERROR(WantScalars(c, {0, 4}));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &ids));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 2, &gradients));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 1, &settings));
      DimensionHandle count, width;
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(ids, 0), c->Dim(gradients, 0), &count));
      return c->Merge(c->Dim(gradients, 1), Width(c), &width);
    })
    .Doc(R"doc(
Updates the rows of ids with one step of an optimizer, weights and slots of a row together.

Gradients of an id that comes several times are summed first. Ids without a row are left out, and
counted. The first update fixes the rule of the table: rows get their slots then.

handle: the table.
ids: [n].
gradients: [n, D].
settings: of sgd: learning rate; of adagrad: learning rate, epsilon, initial accumulator; of adam:
learning rate, beta1, beta2, epsilon; of ftrl: learning rate, learning rate power (not positive),
l1, l2, l2 shrinkage, beta, initial accumulator.
step: scalar, number of the step, from 1; for adam.
rule: the optimizer; adam is lazy, it does nothing to rows that no gradient reaches.
)doc");

REGISTER_OP("AmsDynamicCounters")
    .Input("handle: resource")
    .Output("counters: int64")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      TF_RETURN_IF_ERROR(WantScalars(c, {0}));
      c->set_output(0, c->Vector(kNumCounters));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Counts what a table holds, and what has happened since it was made.

handle: the table.
counters: rows and bytes now; ids asked for, of them found; rows admitted, ids refused; rows
updated, gradients dropped for want of a row; rows evicted; steps of the clock; counters of the
filter in use.
)doc");

REGISTER_OP("AmsDynamicEvict")
    .Input("handle: resource")
    .Input("limit: double")
    .Output("evicted: int64")
    .Attr(
        "policy: {'unseen_steps', 'unseen_since', 'small_norm', 'least_recent', "
        "'least_frequent'}")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      TF_RETURN_IF_ERROR(WantScalars(c, {0, 1}));
      c->set_output(0, c->Scalar());
      return absl::OkStatus();
    })
    .Doc(R"doc(
Removes rows from a table.

handle: the table.
limit: steps; second since 1970; L2 norm of a row; or how many rows to keep.
evicted: how many rows were removed.
policy: rows that were not seen in so many steps, or since that second, whose norm is below it, or
those seen longest ago or least often.
)doc");

REGISTER_OP("AmsDynamicExport")
    .Input("handle: resource")
    .Input("page: int64")
    .Input("num_pages: int64")
    .Output("ids: int64")
    .Output("values: float")
    .Output("seen: int64")
    .Output("rule: string")
    .Output("initial_accumulator: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      TF_RETURN_IF_ERROR(WantScalars(c, {0, 1, 2}));
      const DimensionHandle rows = c->UnknownDim();
      c->set_output(0, c->Vector(rows));
      c->set_output(1, c->Matrix(rows, c->UnknownDim()));
      c->set_output(2, c->Matrix(rows, kNumSeen));
      c->set_output(3, c->Scalar());
      c->set_output(4, c->Scalar());
      return absl::OkStatus();
    })
    .Doc(R"doc(
Copies a part of the rows of a table, in no order.

handle: the table.
page: which part, from 0.
num_pages: into how many parts of about the same size the table is cut, 1 to 64.
ids: [n].
values: [n, D * (1 + slots)], the weights and then each slot.
seen: [n, 3], step and second in which each was last seen, and how often it was.
rule: the optimizer of the rows, empty before the first update.
initial_accumulator: what the first slot of a new row begins with.
)doc");

REGISTER_OP("AmsDynamicImport")
    .Input("handle: resource")
    .Input("ids: int64")
    .Input("values: float")
    .Input("seen: int64")
    .Input("rule: string")
    .Input("initial_accumulator: float")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle ids, values, seen;
      TF_RETURN_IF_ERROR(WantScalars(c, {0, 4, 5}));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(1), 1, &ids));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(2), 2, &values));
      TF_RETURN_IF_ERROR(c->WithRank(c->input(3), 2, &seen));
      DimensionHandle rows;
      TF_RETURN_IF_ERROR(c->Merge(c->Dim(ids, 0), c->Dim(values, 0), &rows));
      TF_RETURN_IF_ERROR(c->Merge(rows, c->Dim(seen, 0), &rows));
      return c->WithValue(c->Dim(seen, 1), kNumSeen, &rows);
    })
    .Doc(R"doc(
Takes rows into a table, in place of those of the same ids.

handle: the table.
ids: [n].
values: [n, D * (1 + slots)].
seen: [n, 3].
rule: the optimizer of the rows; it becomes that of the table if that has none.
initial_accumulator: what the first slot of a new row begins with.
)doc");

REGISTER_OP("AmsDynamicFilter")
    .Input("handle: resource")
    .Output("counters: uint8")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      TF_RETURN_IF_ERROR(WantScalars(c, {0}));
      c->set_output(0, c->Vector(c->UnknownDim()));
      return absl::OkStatus();
    })
    .Doc(R"doc(
Copies what the admission filter of a table has counted.

handle: the table.
counters: [n], one for each byte of the filter; empty if ids are not counted.
)doc");

REGISTER_OP("AmsDynamicMergeFilter")
    .Input("handle: resource")
    .Input("counters: uint8")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
      ShapeHandle counters;
      TF_RETURN_IF_ERROR(WantScalars(c, {0}));
      return c->WithRank(c->input(1), 1, &counters);
    })
    .Doc(R"doc(
Takes what another filter has counted: of each counter and its own the greater one.

handle: the table.
counters: [n], of a filter of the same size.
)doc");

REGISTER_OP("AmsDynamicClear")
    .Input("handle: resource")
    .Input("clock: int64")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) { return WantScalars(c, {0, 1}); })
    .Doc(R"doc(
Forgets all rows of a table, what its filter has counted, and its rule.

handle: the table.
clock: steps that the clock of the table shows from now on.
)doc");

}  // namespace
}  // namespace amstf
