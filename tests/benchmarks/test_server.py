import pytest
import tensorflow as tf

from benchmarks import op_trace, server
from benchmarks.op_trace import OpEvent
from tests.benchmarks.programs import run_quickly


def event(start, end, name="x", type="Mul"):
    return OpEvent(name, type, start, end)


def test_union_of_intervals():
    assert op_trace.union([]) == []
    assert op_trace.union([(4, 5), (0, 2), (1, 3), (3, 3.5)]) == [(0, 3.5), (4, 5)]
    assert op_trace.union([(0, 9), (1, 2)]) == [(0, 9)]


def test_whole_steps_are_cut_from_marker_to_marker():
    marks = [event(start, start + 1, "mark") for start in (1, 5, 9)]
    around = [event(0, 2), event(6, 7), event(8, 12), event(9.5, 10)]
    events = sorted(marks + around, key=lambda e: e.start)
    inside, steps, elapsed = op_trace.whole_steps(events, lambda e: e.name == "mark")
    assert (steps, elapsed) == (2, 8)
    spans = [(e.name, e.start, e.end) for e in inside]
    assert spans == [("x", 1, 2), ("mark", 1, 2), ("mark", 5, 6), ("x", 6, 7), ("x", 8, 9)]
    with pytest.raises(ValueError, match="holds 1 of the ops wanted"):
        op_trace.whole_steps(marks[:1], lambda e: e.name == "mark")


def test_time_goes_to_the_first_part_and_only_once():
    events = [event(0, 4, "a"), event(2, 6, "b"), event(3, 5, "a"), event(9, 10, "c")]
    parts = {
        "first": lambda e: e.name == "a",
        "second": lambda e: e.name in "ab",
        "absent": lambda e: False,
    }
    assert op_trace.shares(events, parts) == {"first": 5, "second": 1, "absent": 0}


def test_a_recording_of_this_process_holds_its_ops(tmp_path):
    @tf.function
    def twice(x):
        with tf.name_scope("image_tower/dense"):
            return tf.matmul(tf.matmul(x, x, name="one"), x, name="two")

    x = tf.ones([300, 300])
    twice(x)
    with tf.profiler.experimental.Profile(str(tmp_path)):
        twice(x)
    (path,) = tmp_path.glob("**/*.xplane.pb")
    events = op_trace.read(path)
    products = [e for e in events if server.is_product(e)]
    assert [e.name for e in products] == ["image_tower/dense/one", "image_tower/dense/two"]
    assert products[0].end <= products[1].start
    assert all(server.is_tower(e) and e.end > e.start for e in products)
    assert not any("::" in e.type or " " in e.name for e in events)


@pytest.mark.parametrize(
    ("name", "type_", "part"),
    [
        ("ams/image_tower/dense/BiasAdd", "_MklNativeFusedMatMul", "E: products"),
        ("gradient_tape/ams/image_tower_1/p_re_lu/mul/Sum", "Sum", "E: the rest"),
        ("ams/image_tower/dense/MatMul/ReadVariableOp", "ReadVariableOp", "other ops"),
        ("ams/image_tower/p_re_lu_2/add/_3", "_Send", "transfers"),
        ("ams/AmsImageLookup", "AmsImageLookup", "lookup"),
        ("ams/AmsImageStore", "AmsImageStore", "other ops"),
        ("ams/AmsJoin", "AmsJoin", "merging"),
        ("Adam/ResourceApplyAdam", "ResourceApplyAdam", "updates"),
        ("dense/MatMul", "MatMul", "other ops"),
    ],
)
def test_ops_fall_into_parts(name, type_, part):
    shares = op_trace.shares([event(0, 1, name, type_)], server.PARTS)
    assert {found for found, seconds in shares.items() if seconds} == {part}


def one_round(products, rest, lookup, step, bare, memcpy):
    parts = {"E: products": products, "E: the rest": rest, "lookup": lookup, "no op": 0.0}
    return {
        "parts_s": parts,
        "tower_ops_s": {},
        "step_s": step,
        "steps": 3,
        "bare_products_s": bare,
        "memcpy_s": memcpy,
        "memcpy_two_threads_s": memcpy,
    }


def test_ratios_are_medians_over_rounds():
    rounds = [
        one_round(8.0, 2.0, 1.0, 20.0, bare=8.0, memcpy=1.0),
        one_round(8.0, 2.0, 1.0, 12.5, bare=9.0, memcpy=2.0),
        one_round(8.0, 2.0, 1.0, 11.0, bare=2.0, memcpy=0.5),
    ]
    summary = server.summary(rounds)
    assert summary["gemm_fraction"] == 0.8 and summary["gemm_fraction_range"] == [0.2, 0.9]
    assert summary["lookup_over_memcpy"] == 1.0
    assert summary["overhead_fraction"] == 0.12  # 1 - 11 / 12.5
    assert summary["step_s"] == 12.5


@pytest.mark.slow
def test_the_server_benchmark_runs(tmp_path):
    """Its numbers depend on the machine; what it says does not."""
    result, printed = run_quickly("server", f"--cache={tmp_path}")
    assert 0 < result["gemm_fraction"] < 2 and result["lookup_over_memcpy"] > 0
    assert 0 < result["overhead_fraction"] < 1
    assert "dense backward: product" in printed
    for case in result["results"].values():
        accounted = sum(case["parts_s"].values())
        assert accounted == pytest.approx(case["step_s"], rel=0.3)  # Medians of either.
        assert case["parts_s"]["E: products"] > 0 and case["parts_s"]["lookup"] > 0
