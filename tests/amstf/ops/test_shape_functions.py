"""Every op of the library: its documentation, and its shape function under partial shapes."""

import itertools

import pytest
import tensorflow as tf

from amstf import ops

LIBRARY = ops.load_library()
OPS = sorted(
    "".join(part.capitalize() for part in name.split("_"))
    for name in dir(LIBRARY)
    if name.startswith("ams_") and not name.endswith("_eager_fallback")
)
STORE = {
    "paths": ["a.h5", "b.h5"],
    "file_bytes": [1, 1],
    "rows": [1, 1],
    "ids_offsets": [0, 0],
    "features_offsets": [0, 0],
    "width": 4,
    "dtype": tf.float32,
}


def tensor_of(value):
    """What stands for an input: of a type and shape, a list of such, or made by a function."""
    if isinstance(value, list):
        return [tensor_of(part) for part in value]
    return value() if callable(value) else tf.compat.v1.placeholder(*value)


def build(op, inputs, attributes):
    """The outputs of an op in a graph, without running it; its inputs given by type and shape."""
    with tf.Graph().as_default():
        tensors = [tensor_of(value) for value in inputs]
        result = getattr(LIBRARY, python_name(op))(*tensors, **attributes)
        return result if isinstance(result, tf.Operation) else tf.nest.flatten(result)[0].op


def outputs(op, *inputs, **attributes):
    """Shapes of the outputs, None for an unknown rank."""
    shapes = [tensor.shape for tensor in build(op, inputs, attributes).outputs]
    return [None if shape.rank is None else shape.as_list() for shape in shapes]


def definition(op):
    inputs, attributes, _ = KNOWN[op][0]
    return build(op, inputs, attributes).op_def


def python_name(op):
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in op).lstrip("_")


def a_store():
    return LIBRARY.ams_image_store(**STORE)


TABLE = {"width": 4, "initializer": "constant", "initializer_values": [0.0]}


def a_table():
    return LIBRARY.ams_dynamic_table(**TABLE)


HANDLE = (tf.resource, [])
REQUEST = (tf.variant, [])
SYNC_ROUND = ((tf.int32, []), (tf.int64, []), (tf.int32, []), (tf.bool, []))
SCALAR = (tf.float32, [])
SCALAR_INT = (tf.int32, [])
SPARSE_GRADIENT = (
    (tf.float32, [None, 3]), (tf.int32, [None]), *[SCALAR] * 4, (tf.int64, [])
)  # fmt: skip
# op -> [(inputs, attributes, shapes of the outputs)]
KNOWN = {
    "AmsImageStore": [((), STORE, [[]])],
    "AmsImageLookup": [
        ((a_store, (tf.int64, [7])), {}, [[7, 4], [7]]),
        ((a_store, (tf.int64, [None])), {}, [[None, 4], [None]]),
        ((a_store, (tf.int64, None)), {}, [[None, 4], [None]]),
        ((HANDLE, (tf.int64, [7])), {}, [[7, None], [7]]),
        (((tf.resource, None), (tf.int64, None)), {}, [[None, None], [None]]),
    ],
    "AmsImageStoreCounters": [
        ((a_store,), {}, [[5]]),
        (((tf.resource, None),), {}, [[5]]),
    ],
    "AmsDynamicTable": [((), TABLE, [[]])],
    "AmsDynamicLookup": [
        ((a_table, (tf.int64, [7]), (tf.int32, [None]), (tf.bool, [])), {}, [[7, 4]]),
        ((a_table, (tf.int64, None), (tf.int32, None), (tf.bool, None)), {}, [[None, 4]]),
        ((HANDLE, (tf.int64, [7]), (tf.int32, [7]), (tf.bool, [])), {}, [[7, None]]),
    ],
    "AmsDynamicApply": [
        (
            (a_table, (tf.int64, [7]), (tf.float32, [7, 4]), (tf.float32, [1]), (tf.int64, [])),
            {"rule": "sgd"},
            [],
        ),
    ],
    "AmsDynamicCounters": [((HANDLE,), {}, [[len(ops.DYNAMIC_COUNTER_NAMES)]])],
    "AmsDynamicEvict": [((HANDLE, (tf.float64, [])), {"policy": "small_norm"}, [[]])],
    "AmsDynamicExport": [
        (
            (HANDLE, (tf.int64, []), (tf.int64, [])),
            {},
            [[None], [None, None], [None, 3], [], []],
        ),
    ],
    "AmsDynamicImport": [
        (
            (
                HANDLE,
                (tf.int64, [None]),
                (tf.float32, [None, 8]),
                (tf.int64, [None, 3]),
                (tf.string, []),
                (tf.float32, []),
            ),
            {},
            [],
        ),
    ],
    "AmsDynamicFilter": [((HANDLE,), {}, [[None]])],
    "AmsDynamicMergeFilter": [((HANDLE, (tf.uint8, [5])), {}, [])],
    "AmsDynamicClear": [((HANDLE, (tf.int64, [])), {}, [])],
    "AmsMeeting": [((), {}, [[]])],
    "AmsJoin": [
        ((HANDLE, (tf.int64, [None]), *SYNC_ROUND), {}, [[], [None], []]),
        ((HANDLE, (tf.int64, [7]), *SYNC_ROUND), {}, [[], [None], []]),
    ],
    "AmsShare": [
        ((REQUEST, (tf.float32, [None, 4])), {}, [[None, 4]]),
        ((REQUEST, (tf.float32, None)), {}, [[None, None]]),
    ],
    "AmsJoinGradient": [
        ((REQUEST, (tf.float32, [7, 4])), {}, [[None, 4], []]),
        ((REQUEST, (tf.float32, None)), {}, [[None, None], []]),
    ],
    "AmsEndBackward": [((REQUEST,), {}, [])],
    "AmsMeetingCounters": [((HANDLE,), {}, [[len(ops.MEETING_COUNTER_NAMES)]])],
    "AmsSparseAdam": [((HANDLE, HANDLE, HANDLE, *SPARSE_GRADIENT), {}, [])],
    "AmsTaskLocation": [((), {}, [[], []])],
    "AmsReadRecords": [
        (((tf.string, [3]), (tf.int64, [3]), (tf.int64, None)), {}, [[None]]),
    ],
    "AmsRoundTable": [((), {"num_workers": 2, "worker_timeout_ms": 1.0}, [[]])],
    "AmsEnterRound": [
        ((HANDLE, (tf.int32, [])), {}, [[], [], []]),
        ((HANDLE, (tf.int32, None)), {"enabled": False}, [[], [], []]),
    ],
    "AmsRoundCounters": [((HANDLE,), {}, [[len(ops.ROUND_COUNTER_NAMES)]])],
    "AmsGradientMean": [((), {"worker_timeout_ms": 1.0}, [[]])],
    "AmsMeanGradient": [
        ((HANDLE, (tf.float32, [3, 2]), *SYNC_ROUND), {}, [None]),
        ((HANDLE, (tf.float32, [3]), *SYNC_ROUND), {}, [[None]]),
        ((HANDLE, (tf.float32, []), *SYNC_ROUND), {}, [None]),
    ],
    "AmsMeanSparseGradient": [
        (
            (HANDLE, (tf.float32, [5, 3, 2]), (tf.int64, [5]), *SYNC_ROUND),
            {},
            [[None, 3, 2], [None]],
        ),
        ((HANDLE, (tf.float32, [None]), (tf.int32, [5]), *SYNC_ROUND), {}, [[None], [None]]),
        ((HANDLE, (tf.float32, None), (tf.int32, None), *SYNC_ROUND), {}, [None, [None]]),
    ],
    "AmsGradientMeanCounters": [((HANDLE,), {}, [[len(ops.GRADIENT_MEAN_COUNTER_NAMES)]])],
    "AmsReplicaState": [((), {"sync_every": 2}, [[]])],
    "AmsBeginRound": [((HANDLE, (tf.bool, [])), {}, [[]])],
    "AmsAccumulateGradients": [
        (
            (HANDLE, [(tf.float32, [3, 2]), (tf.float32, [4]), (tf.float32, None)]),
            {},
            [None, [None], None],
        ),
    ],
    "AmsSumPresent": [
        (([(tf.float32, [3]), (tf.float32, [0])],), {"num_elements": 3}, [[None], []]),
        (([(tf.float32, [3, 2]), (tf.float32, [0])],), {"num_elements": 6}, [None, []]),
    ],
}
# These give [0] in place of a tensor of any rank.
OF_UNKNOWN_RANK = {
    "AmsMeanGradient", "AmsMeanSparseGradient", "AmsAccumulateGradients", "AmsSumPresent",
}  # fmt: skip
# op -> [inputs] that it must refuse when the graph is made
REFUSED = {
    "AmsDynamicLookup": [
        (a_table, (tf.int64, [7, 1]), (tf.int32, [7]), (tf.bool, [])),
        (a_table, (tf.int64, [7]), (tf.int32, [7]), (tf.bool, [1])),
    ],
    "AmsDynamicApply": [
        (a_table, (tf.int64, [7]), (tf.float32, [7]), (tf.float32, [1]), (tf.int64, [])),
        (a_table, (tf.int64, [7]), (tf.float32, [7, 4]), SCALAR, (tf.int64, [])),
    ],
    "AmsImageLookup": [
        (a_store, (tf.int64, [])),
        (a_store, (tf.int64, [None, 3])),
        ((tf.resource, [2]), (tf.int64, [3])),
    ],
    "AmsImageStoreCounters": [((tf.resource, [1]),)],
    "AmsJoin": [
        (HANDLE, (tf.int64, []), *SYNC_ROUND),
        (HANDLE, (tf.int64, [None]), (tf.int32, [1]), *SYNC_ROUND[1:]),
        (HANDLE, (tf.int64, [None]), *SYNC_ROUND[:3], (tf.bool, [1])),
    ],
    "AmsShare": [(REQUEST, (tf.float32, [3])), ((tf.variant, [1]), (tf.float32, [3, 2]))],
    "AmsJoinGradient": [(REQUEST, (tf.float32, [3])), ((tf.variant, [1]), (tf.float32, [3, 2]))],
    "AmsEndBackward": [((tf.variant, [1]),)],
    "AmsMeetingCounters": [((tf.resource, [1]),)],
    "AmsEnterRound": [((tf.resource, [1]), SCALAR_INT), (HANDLE, (tf.int32, [1]))],
    "AmsRoundCounters": [((tf.resource, [1]),)],
    "AmsMeanGradient": [
        ((tf.resource, [1]), SCALAR, *SYNC_ROUND),
        *[
            (HANDLE, SCALAR, *SYNC_ROUND[:i], (kind, [1]), *SYNC_ROUND[i + 1 :])
            for i, (kind, _) in enumerate(SYNC_ROUND)
        ],
    ],
    "AmsMeanSparseGradient": [
        (HANDLE, SCALAR, (tf.int32, [1]), *SYNC_ROUND),
        (HANDLE, (tf.float32, [4]), SCALAR_INT, *SYNC_ROUND),
        (HANDLE, (tf.float32, [4]), (tf.int32, [4, 1]), *SYNC_ROUND),
        (HANDLE, (tf.float32, [4]), (tf.int32, [4]), *SYNC_ROUND[:3], (tf.bool, [1])),
    ],
    "AmsGradientMeanCounters": [((tf.resource, [1]),)],
    "AmsBeginRound": [(HANDLE, (tf.bool, [1])), ((tf.resource, [1]), (tf.bool, []))],
    "AmsAccumulateGradients": [((tf.resource, [1]), [SCALAR])],
    "AmsSparseAdam": [
        (*[HANDLE] * 3, (tf.float32, []), *SPARSE_GRADIENT[1:]),
        (*[HANDLE] * 3, (tf.float32, [2, 3]), (tf.int32, [2, 1]), *SPARSE_GRADIENT[2:]),
        (*[HANDLE] * 3, *SPARSE_GRADIENT[:2], (tf.float32, [1]), *SPARSE_GRADIENT[3:]),
    ],
}


def test_the_library_holds_the_ops_listed_here():
    """A new op comes with its shapes."""
    assert OPS and set(KNOWN) == set(OPS)


@pytest.mark.parametrize("op", OPS)
def test_shapes(op):
    for inputs, attributes, shapes in KNOWN[op]:
        assert outputs(op, *inputs, **attributes) == shapes, (inputs, attributes)
    for inputs in REFUSED.get(op, []):
        with pytest.raises(ValueError, match="rank"):
            outputs(op, *inputs, **KNOWN[op][0][1])


def shapes_of(num_inputs, shapes):
    """All combinations; of many inputs only two at a time are known."""
    if num_inputs <= 3:
        yield from itertools.product(shapes, repeat=num_inputs)
        return
    for pair in itertools.combinations(range(num_inputs), 2):
        for known in itertools.product(shapes, repeat=2):
            chosen = [None] * num_inputs
            for position, shape in zip(pair, known, strict=True):
                chosen[position] = shape
            yield chosen


@pytest.mark.parametrize("op", OPS)
def test_no_input_shape_crashes(op):
    """Ranks from unknown to 3 for each input: shapes or a ValueError; unknown is accepted."""
    inputs = definition(op).input_arg
    attributes = KNOWN[op][0][1]
    shapes = [None, [], [None], [3], [None, 2], [1, 2, 3]]
    accepted = 0
    for chosen in shapes_of(len(inputs), shapes):
        types = [tf.as_dtype(argument.type or tf.int32) for argument in inputs]
        typed = [
            [pair] if argument.number_attr else pair
            for argument, pair in zip(inputs, zip(types, chosen, strict=True), strict=True)
        ]
        try:
            known = outputs(op, *typed, **attributes)
        except ValueError:
            assert set(map(str, chosen)) != {"None"}, "refuses inputs of unknown shape"
            continue
        accepted += 1
        assert len(known) == len(definition(op).output_arg)
        ranks_known = all(shape is not None for shape in known)
        assert ranks_known or op in OF_UNKNOWN_RANK, f"{op}: an output of unknown rank"
    assert accepted


@pytest.mark.parametrize("op", OPS)
def test_every_op_input_and_output_is_documented(op):
    text = getattr(LIBRARY, python_name(op)).__doc__
    assert len(text.split("\n")[0]) > 20, "the first line says what the op does"
    for argument in definition(op).input_arg:
        assert f"{argument.name}:" in text
