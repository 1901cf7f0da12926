"""The ops that merge requests, against a plain computation; W requests of as many threads."""

import concurrent.futures
import dataclasses
import itertools
import uuid

import numpy as np
import pytest
import tensorflow as tf

from amstf import ops

FOREVER = 600_000.0
names = (f"test_{number}" for number in itertools.count())

IDS = {
    "empty": [[], [], [], []],
    "one": [[5], [5], [5], [5]],
    "some empty": [[], [3, 1], [], [1]],
    "duplicates": [[4, 4, 4], [7, 4, 7], [7], [4, 7, 4, 7]],
    "disjoint": [[10, 11], [20], [30, 31, 32], [40, 41]],
    "overlapping": [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5], [8, 9, 7, 9, 3], [2, 3, 8, 4, 6]],
    "large": [list(range(0, 9000, 3 + worker)) for worker in range(4)],
}


@dataclasses.dataclass
class Outcome:
    """What a step got."""

    union_ids: np.ndarray
    rows: np.ndarray
    leads: bool
    sum: np.ndarray | None = None


def embed(ids, width):
    """E of the tests: a row that only its own id has."""
    return tf.cast(ids, tf.float32)[:, tf.newaxis] + tf.range(width, dtype=tf.float32) / 64


def step(worker, ids, width, gradient, number=-1, num_participants=1, leads=True, **meeting):
    """The ops of a step in a cluster, for one worker and server."""
    handle = ops.meeting(**meeting)
    request, union_ids, is_leader = ops.join(
        handle,
        ids,
        worker,
        round_number=number,
        num_participants=num_participants,
        leads=leads,
    )
    rows = ops.share(request, embed(union_ids, width))
    if gradient is None:
        return union_ids, rows, is_leader
    total, is_leader_still = ops.join_gradient(request, gradient)
    return union_ids, rows, tf.logical_and(is_leader, is_leader_still), total


def run_together(requests, width, gradients, function=False, **options):
    """Runs the steps of all workers at once; each in a thread, as those of a cluster come."""
    num_workers = len(requests)

    def run(worker):
        call = tf.function(step) if function else step
        sync = options["merge"] == "sync"
        outputs = call(
            tf.constant(worker),
            tf.constant(requests[worker], tf.int64),
            width,
            None if gradients is None else tf.constant(gradients[worker]),
            number=7 if sync else -1,
            num_participants=num_workers,
            leads=worker == num_workers - 1,
            num_workers=num_workers,
            **options,
        )
        return Outcome(*(output.numpy() for output in outputs))

    with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
        return list(pool.map(run, range(num_workers)))


def counters(num_workers, **options):
    values = ops.meeting_counters(ops.meeting(num_workers=num_workers, **options)).numpy()
    return dict(zip(ops.MEETING_COUNTER_NAMES, values.tolist(), strict=True))


def distinct(requests):
    """The ids of requests in the order of their first appearance, one by one."""
    return list(dict.fromkeys(itertools.chain.from_iterable(requests)))


def summed(ids, requests, gradients, width):
    total = np.zeros([len(ids), width])
    position = {one: row for row, one in enumerate(ids)}
    for request, gradient in zip(requests, gradients, strict=True):
        for one, row in zip(request, gradient, strict=True):
            total[position[one]] += row
    return total


@pytest.mark.parametrize("merge", ["none", "async", "sync"])
@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
@pytest.mark.parametrize(
    ("kind", "function", "widths"),
    [
        *((kind, False, [1, 3, 12]) for kind in IDS),
        ("some empty", True, [3]),
        ("overlapping", True, [3]),
    ],
)
def test_merged_as_computed_plainly(kind, function, widths, num_workers, merge):
    for width, backward in itertools.product(widths, [True, False]):
        options = {"name": next(names), "merge": merge, "merge_wait_ms": FOREVER / 2}
        options["worker_timeout_ms"] = FOREVER
        requests = IDS[kind][:num_workers]
        rng = np.random.default_rng(width)
        gradients = [rng.normal(size=(len(ids), width)).astype("f4") for ids in requests]
        outcomes = run_together(
            requests, width, gradients if backward else None, function, **options
        )

        groups = [[worker] for worker in range(num_workers)]
        if merge != "none":
            groups = [list(range(num_workers))]
        for group in groups:
            (leader,) = [worker for worker in group if outcomes[worker].leads]
            assert merge != "sync" or leader == num_workers - 1
            of_group = [requests[worker] for worker in group]
            union_ids = distinct(of_group)
            assert outcomes[leader].union_ids.tolist() == union_ids
            wanted = summed(union_ids, of_group, [gradients[worker] for worker in group], width)
            wanted /= len(group) if merge == "sync" else 1
            for worker in group:
                outcome = outcomes[worker]
                if worker != leader:
                    assert outcome.union_ids.size == 0
                ids = tf.constant(requests[worker], tf.int64)
                np.testing.assert_array_equal(outcome.rows, embed(ids, width))
                if backward:
                    expected = wanted if worker == leader else np.zeros([0, width])
                    assert outcome.sum.shape == expected.shape
                    np.testing.assert_allclose(outcome.sum, expected, rtol=1e-5, atol=1e-5)

        counted = counters(num_workers, **options)
        asked = sum(map(len, requests))
        assert counted["requests"] == num_workers and counted["ids_asked"] == asked
        assert counted["rounds"] == len(groups)
        assert counted["ids_distinct"] == sum(
            len(distinct([requests[worker] for worker in group])) for group in groups
        )
        assert counted["merged"] == (num_workers if len(groups) < num_workers else 0)
        assert counted["bytes_in"] == asked * (8 + 4 * width * backward)
        assert counted["bytes_out"] == asked * 4 * width
        assert counted["gone"] == counted["late"] == counted["open_requests"] == 0


def test_wire_bytes_are_those_of_the_wire():
    options = {"name": next(names)}
    request, _, _ = ops.join(ops.meeting(**options), tf.constant([1, 2, 1], tf.int64))
    rows = ops.share(request, tf.ones([2, 4]), wire_bytes=2)
    ops.join_gradient(request, rows, wire_bytes=2)
    counted = counters(1, **options)
    assert (counted["bytes_out"], counted["bytes_in"]) == (24, 24 + 24)
    assert counted["open_requests"] == 1
    del request
    assert counters(1, **options)["open_requests"] == 0


def test_shapes_keep_the_width():
    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def traced(ids):
        request, union_ids, leads = ops.join(ops.meeting(next(names)), ids)
        rows = ops.share(request, embed(union_ids, 5))
        total, _ = ops.join_gradient(request, rows)
        assert union_ids.shape.as_list() == [None] and leads.shape == []
        assert rows.shape.as_list() == total.shape.as_list() == [None, 5]
        return total

    assert traced(tf.constant([4, 4], tf.int64)).shape == (1, 5)


def test_what_a_step_does_is_neither_merged_nor_folded_nor_pruned():
    """TensorFlow sees equal ops, constant inputs, and results that nobody reads."""
    name = next(names)

    @tf.function
    def traced():
        handle = ops.meeting(name)
        ids = tf.constant([1, 2], tf.int64)
        for _ in range(2):
            request, union_ids, _ = ops.join(handle, ids)
            ops.join_gradient(request, ops.share(request, embed(union_ids, 3)))

    for calls in (1, 2, 3):
        traced()
        counted = counters(1, name=name)
        assert counted["requests"] == 2 * calls
        assert counted["bytes_in"] == 2 * calls * (2 * 8 + 2 * 3 * 4)
        assert counted["open_requests"] == 0


def fails(message, call, error=tf.errors.InvalidArgumentError):
    with pytest.raises(error, match=message):
        call()


def test_wrong_arguments_are_named():
    handle = ops.meeting(next(names), num_workers=2)
    ids = tf.constant([1, 2], tf.int64)
    fails("ids must be a vector, got shape", lambda: ops.join(handle, ids[0]))
    fails("ids must be a vector, got shape", lambda: ops.join(handle, [ids]))
    fails(
        r"ids has -3 at position 1; wanted image ids",
        lambda: ops.join(handle, tf.constant([1, -3], tf.int64)),
    )
    for argument in ("round_number", "num_participants", "leads"):
        value = [True] if argument == "leads" else [1]
        wanted = f"{argument.removesuffix('_number')} must be a scalar"
        fails(wanted, lambda a=argument, v=value: ops.join(handle, ids, 0, **{a: v}))
    fails("worker must be a scalar", lambda: ops.join(handle, ids, [0]))
    fails(r"worker is 2, and the meeting .* 2 workers", lambda: ops.join(handle, ids, 2))
    fails(
        "num_participants is 0",
        lambda: ops.join(handle, ids, 0, round_number=1, num_participants=0),
    )


def test_wrong_shapes_are_named():
    request, union_ids, _ = ops.join(ops.meeting(next(names)), tf.constant([1, 2, 1], tf.int64))
    precondition = tf.errors.FailedPreconditionError
    fails("embeddings must be a matrix", lambda: ops.share(request, tf.ones([2])))
    fails("embeddings has 3 rows; wanted 2", lambda: ops.share(request, tf.ones([3, 4])))
    fails("has none", lambda: ops.join_gradient(request, tf.ones([3, 4])), precondition)
    rows = ops.share(request, embed(union_ids, 4))
    fails("shares once", lambda: ops.share(request, tf.ones([2, 4])), precondition)
    fails("gradient must be a matrix", lambda: ops.join_gradient(request, rows[0]))
    fails(
        r"gradient has shape \[2, 4\]; wanted \[3, 4\]",
        lambda: ops.join_gradient(request, rows[:2]),
    )
    fails(r"wanted \[3, 4\]", lambda: ops.join_gradient(request, rows[:, :3]))
    ops.join_gradient(request, rows)
    fails("a second backward", lambda: ops.join_gradient(request, rows), precondition)


def test_another_tensor_is_not_a_request():
    other = tf.raw_ops.EmptyTensorList(
        element_shape=tf.constant([], tf.int32), max_num_elements=1, element_dtype=tf.float32
    )
    for no_request in (other, tf.stack([other, other])):
        fails("request is not one of AmsJoin", lambda r=no_request: ops.share(r, tf.ones([1, 1])))
        fails(
            "place AmsJoin, AmsShare and AmsJoinGradient on the same device",
            lambda r=no_request: ops.join_gradient(r, tf.ones([1, 1])),
        )


def test_wrong_options_are_named():
    fails("merge_wait_ms is -1", lambda: ops.meeting(next(names), merge_wait_ms=-1))
    fails(
        "worker_timeout_ms must be more than 0",
        lambda: ops.meeting(next(names), worker_timeout_ms=0),
    )
    name = next(names)
    ops.meeting(name, num_workers=2)
    message = f"'amstf_meeting_{name}' on /job:.* is open with other options than .*num_workers=3"
    fails(message, lambda: ops.meeting(name, num_workers=3))


def pair(name):
    """Options of a meeting of two that wait for each other for ever."""
    return {"name": name, "merge": "sync", "num_workers": 2, "worker_timeout_ms": FOREVER}


def test_a_step_that_fails_elsewhere_does_not_wait():
    options = pair(next(names))

    @tf.function
    def traced(good):
        request, _, _ = ops.join(
            ops.meeting(**options),
            tf.constant([1], tf.int64),
            0,
            round_number=1,
            num_participants=2,
        )
        with tf.control_dependencies([tf.debugging.Assert(good, ["something else"])]):
            return tf.identity(request)

    fails("something else", lambda: traced(tf.constant(False)))
    counted = counters(**options)
    assert (counted["gone"], counted["open_requests"]) == (1, 0)


def test_the_end_of_the_leaders_step_ends_the_wait_of_the_others():
    """A TensorFlow coordinator runs a step again if the error is Cancelled and names a task."""
    options = pair(next(names))

    @tf.function
    def traced(worker):
        request, union_ids, leads = ops.join(
            ops.meeting(**options),
            tf.constant([1, 2], tf.int64),
            worker,
            round_number=1,
            num_participants=2,
            leads=tf.equal(worker, 1),
        )
        with tf.control_dependencies([tf.debugging.Assert(tf.logical_not(leads), ["E broke"])]):
            return ops.share(request, embed(union_ids, 2))

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        follower, leader = (pool.submit(traced, tf.constant(worker)) for worker in (0, 1))
        fails("E broke", leader.result)
        message = "/job:.* worker 1, .* is gone .* runs again"
        fails(message, follower.result, tf.errors.CancelledError)
    counted = counters(**options)
    assert (counted["gone"], counted["open_requests"]) == (1, 0)


def test_the_end_of_a_leaders_backward_is_counted():
    handle = ops.meeting(f"backward {uuid.uuid4()}")
    request, union, _ = ops.join(handle, tf.constant([4, 2], tf.int64))

    def counted():
        values = ops.meeting_counters(handle).numpy()
        return dict(zip(ops.MEETING_COUNTER_NAMES, values, strict=True))

    ops.share(request, tf.ones([2, 3]))
    ops.end_backward(request)
    assert counted()["leader_backward_nanoseconds"] == 0, "there was no gradient yet"
    ops.join_gradient(request, tf.ones([2, 3]))
    ops.end_backward(request)
    assert counted()["leader_backward_nanoseconds"] > 0
    assert union.numpy().tolist() == [4, 2]
