import concurrent.futures
import itertools
import time

import numpy as np
import pytest
import tensorflow as tf

from amstf import ops

NEVER = 600_000.0
SOON = 500.0  # Long enough for a few calls on a busy machine.
SHAPES = [(), (1,), (3, 2)]
names = map("test_rounds_{}".format, itertools.count())


def at_once(num_workers, step):
    """What `step(worker)` returns for each worker, each in a thread of its own."""
    with concurrent.futures.ThreadPoolExecutor(num_workers) as pool:
        return list(pool.map(step, range(num_workers)))


def place(round_number, participants, leads, worker=0):
    return {
        "worker": tf.constant(worker),
        "round": tf.constant(round_number, tf.int64),
        "num_participants": tf.constant(participants),
        "leads": tf.constant(leads),
    }


def counted(counter_names, counters):
    counts = dict(zip(counter_names, map(int, counters), strict=True))
    counts.pop("wait_nanoseconds")
    return counts


def rounds_counted(table):
    return counted(ops.ROUND_COUNTER_NAMES, ops.round_counters(table))


def means_counted(mean):
    return counted(ops.GRADIENT_MEAN_COUNTER_NAMES, ops.gradient_mean_counters(mean))


def gradient_of(worker, round_number, shape):
    rng = np.random.default_rng([worker, round_number])
    return rng.normal(size=shape).astype("f4")


def slices_of(worker, round_number, shape):
    """No rows, one, or several with duplicates."""
    rng = np.random.default_rng([worker, round_number, 7])
    n = [0, 1, 9][(worker + round_number) % 3]
    return rng.normal(size=(n, *shape)).astype("f4"), rng.integers(0, 6, n)


def plain_mean(gradients):
    total = gradients[0].copy()
    for gradient in gradients[1:]:
        total += gradient
    return total / np.float32(len(gradients))


def plain_mean_of_slices(slices):
    sums = {}
    for values, indices in slices:
        for value, index in zip(values, indices, strict=True):
            sums[index] = sums[index] + value if index in sums else value
    rows = sorted(sums)
    shape = (len(rows), *slices[0][0].shape[1:])
    return np.reshape([sums[row] for row in rows], shape) / np.float32(len(slices)), rows


@pytest.mark.parametrize("index_type", [tf.int32, tf.int64])
@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("num_workers", [1, 2, 3, 4])
def test_the_leader_gets_the_plain_mean(num_workers, shape, in_function, index_type):
    num_rounds, name = 6, next(names)

    def step(worker, gradient, values, indices):
        entered = ops.enter_round(ops.round_table(num_workers, NEVER, name), worker)
        means = []
        for part in (gradient, tf.IndexedSlices(values, indices)):
            mean = ops.gradient_mean(NEVER, f"{name}_{len(means)}")
            means.append(ops.mean_gradient(mean, part, worker, *entered))
        return entered, *means

    run = step
    if in_function:
        spec = tf.TensorSpec((None, *shape), tf.float32)
        signature = [
            tf.TensorSpec([], tf.int32), tf.TensorSpec(shape, tf.float32),
            spec, tf.TensorSpec([None], index_type),
        ]  # fmt: skip
        run = tf.function(step, input_signature=signature)

    def work(worker):
        results = []
        for i in range(num_rounds):
            values, indices = slices_of(worker, i, shape)
            tensors = tf.constant(values), tf.constant(indices, index_type)
            results.append(run(tf.constant(worker), gradient_of(worker, i, shape), *tensors))
        return results

    for worker, results in enumerate(at_once(num_workers, work)):
        for i, (entered, mean, slices) in enumerate(results):
            assert [int(value) for value in entered] == [i, num_workers, worker == 0]
            assert slices.indices.dtype == index_type
            if worker > 0:
                assert mean.shape == [0]
                assert slices.values.shape == [0, *shape] and slices.indices.shape == [0]
                continue
            everyone = range(num_workers)
            np.testing.assert_array_equal(
                mean, plain_mean([gradient_of(other, i, shape) for other in everyone])
            )
            values, rows = plain_mean_of_slices([slices_of(other, i, shape) for other in everyone])
            np.testing.assert_array_equal(slices.indices, rows)
            np.testing.assert_array_equal(slices.values, values)
    assert rounds_counted(ops.round_table(num_workers, NEVER, name)) == {
        "rounds": num_rounds, "entered": num_rounds * num_workers, "shrunk": 0,
        "live": num_workers, "waiting": 0,
    }  # fmt: skip
    for i in range(2):
        assert means_counted(ops.gradient_mean(NEVER, f"{name}_{i}")) == {
            "means": num_rounds, "gradients": num_rounds * num_workers, "shrunk": 0,
            "dropped": 0, "late": 0, "open": 0,
        }  # fmt: skip


def test_large_gradients(num_workers=3, size=300_001):
    name = next(names)

    def work(worker):
        where = place(0, num_workers, worker == 0, worker)
        dense = ops.mean_gradient(
            ops.gradient_mean(NEVER, name), gradient_of(worker, 0, size), **where
        )
        rng = np.random.default_rng(worker)
        slices = tf.IndexedSlices(
            rng.normal(size=(20_000, 8)).astype("f4"), tf.constant(rng.integers(0, 5000, 20_000))
        )
        sparse = ops.mean_gradient(ops.gradient_mean(NEVER, f"{name}_s"), slices, **where)
        return dense, sparse, slices

    results = at_once(num_workers, work)
    dense, sparse, _ = results[0]
    np.testing.assert_array_equal(
        dense, plain_mean([gradient_of(worker, 0, size) for worker in range(num_workers)])
    )
    table = np.zeros((5000, 8), "f4")
    for _, _, slices in results:
        np.add.at(table, np.array(slices.indices), np.array(slices.values))
    got = tf.math.unsorted_segment_sum(sparse.values, sparse.indices, 5000)
    np.testing.assert_allclose(got, table / num_workers, rtol=1e-5, atol=1e-5)
    assert (np.diff(sparse.indices) > 0).all()


def test_without_a_round_each_has_its_own():
    table = ops.round_table(3, NEVER, next(names))
    entered = ops.enter_round(table, -1, enabled=False)
    assert [int(value) for value in entered] == [-1, 1, True]
    assert rounds_counted(table)["rounds"] == 0
    mean = ops.gradient_mean(NEVER, next(names))
    np.testing.assert_array_equal(ops.mean_gradient(mean, [[1.0, 2.0]], -1, *entered), [[1, 2]])
    slices = tf.IndexedSlices(
        tf.constant([1.0, 2.0, 3.0]), tf.constant([5, 2, 5]), dense_shape=tf.constant([9])
    )
    own = ops.mean_gradient(mean, slices, -1, *entered)
    np.testing.assert_array_equal(tf.convert_to_tensor(own), [0, 0, 2, 0, 0, 4, 0, 0, 0])
    assert own.indices.numpy().tolist() == [2, 5]


def test_a_worker_that_does_not_come_is_left_out_and_may_come_back():
    table = ops.round_table(2, SOON, next(names))
    for number in range(2):
        entered = ops.enter_round(table, 1)
        assert [int(value) for value in entered] == [number, 1, True]
    assert rounds_counted(table) == {
        "rounds": 2, "entered": 2, "shrunk": 1, "live": 1, "waiting": 0,
    }  # fmt: skip
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        back = pool.submit(ops.enter_round, table, 0)
        while not rounds_counted(table)["waiting"]:
            time.sleep(0.001)
        assert rounds_counted(table)["live"] == 2
        assert [int(value) for value in ops.enter_round(table, 1)] == [2, 2, False]
        assert [int(value) for value in back.result()] == [2, 2, True]


def test_the_mean_is_over_those_who_hand_in():
    mean = ops.gradient_mean(SOON, next(names))
    none = ops.mean_gradient(mean, [1.0, 2.0], **place(0, 3, False, worker=2))
    got = ops.mean_gradient(mean, [3.0, 2.0], **place(0, 3, True, worker=0))
    late = ops.mean_gradient(mean, [9.0, 9.0], **place(0, 3, False, worker=1))
    assert none.shape == [0] and late.shape == [0]
    np.testing.assert_array_equal(got, [2, 2])
    assert means_counted(mean) == {
        "means": 1, "gradients": 2, "shrunk": 1, "dropped": 0, "late": 1, "open": 0,
    }  # fmt: skip


def test_a_leader_whose_round_was_dropped_gets_nothing():
    mean = ops.gradient_mean(1.0, next(names))
    slices = tf.IndexedSlices(tf.ones([2, 3]), tf.constant([1, 4]))
    ops.mean_gradient(mean, slices, **place(7, 2, False, worker=1))
    while means_counted(mean)["open"]:
        time.sleep(0.001)
    late = ops.mean_gradient(mean, slices, **place(7, 2, True))
    assert late.values.shape == [0, 3] and late.indices.shape == [0]
    counts = means_counted(mean)
    assert counts["dropped"] == 1 and counts["late"] == 1 and counts["means"] == 0


@pytest.mark.parametrize("what", ["enter", "dense", "sparse"])
def test_a_cancelled_step_does_not_wait(what):
    """Another op of the step fails while one waits for workers that never come."""
    table = ops.round_table(2, NEVER, next(names))
    mean = ops.gradient_mean(NEVER, next(names))
    waits = {"enter": lambda: rounds_counted(table)["waiting"]}.get(
        what, lambda: means_counted(mean)["open"]
    )

    def fail(_):
        while not waits():
            time.sleep(0.001)
        raise ValueError("another op of the step failed")

    @tf.function
    def step(x):
        if what == "enter":
            waited = ops.enter_round(table, 0).round
        elif what == "dense":
            waited = ops.mean_gradient(mean, [1.0], **place(0, 2, True))
        else:
            slices = tf.IndexedSlices([1.0], tf.constant([1]))
            waited = ops.mean_gradient(mean, slices, **place(0, 2, True)).values
        return waited, tf.numpy_function(fail, [x], tf.float32, stateful=False)

    with pytest.raises(
        (tf.errors.UnknownError, tf.errors.InvalidArgumentError), match="another op"
    ):
        step(tf.constant(1.0))
    assert not waits()
    if what == "enter":
        entered = at_once(2, lambda worker: ops.enter_round(table, worker))
        assert [int(value.num_participants) for value in entered] == [2, 2]
    else:
        assert means_counted(mean)["dropped"] == 1


def test_a_worker_that_enters_again_replaces_itself():
    table = ops.round_table(2, NEVER, next(names))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        old = pool.submit(ops.enter_round, table, 0)
        while not rounds_counted(table)["waiting"]:
            time.sleep(0.001)
        retried = pool.submit(ops.enter_round, table, 0)
        with pytest.raises(tf.errors.CancelledError, match="worker 0 entered again"):
            old.result()
        assert bool(ops.enter_round(table, 1).leads) is False
        assert [int(value) for value in retried.result()] == [0, 2, True]


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (tf.ones([2]), r"worker 1 has shape \[2\], .* round 0 has shape \[3, 2\]; all workers"),
        (tf.ones([]), r"worker 1 has shape \[\], .* has shape \[3, 2\]"),
        (tf.IndexedSlices(tf.ones([2, 2]), tf.range(2)), r"has rows of shape \[2\], "),
    ],
)
def test_gradients_of_a_round_that_differ_in_shape_are_refused(other, text):
    mean = ops.gradient_mean(NEVER, next(names))

    def work(worker):
        gradient = [tf.ones([3, 2]), other][worker]
        with pytest.raises(tf.errors.InvalidArgumentError, match=text):
            ops.mean_gradient(mean, gradient, **place(0, 3, worker == 0, worker))

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        leader = pool.submit(work, 0)
        while not means_counted(mean)["open"]:
            time.sleep(0.001)
        work(1)
        leader.result()
    assert means_counted(mean)["open"] == 0


def test_nonsense_is_refused():
    table = ops.round_table(2, NEVER, next(names))
    mean = ops.gradient_mean(NEVER, next(names))

    def refuses(text, call):
        with pytest.raises(tf.errors.InvalidArgumentError, match=text):
            call()

    for worker in (-1, 2):
        refuses(f"worker must be 0 to 1, got {worker}", lambda w=worker: ops.enter_round(table, w))
    refuses(
        "worker must be 0 or more in a synchronous round, got -1",
        lambda: ops.mean_gradient(mean, [1.0], **place(0, 2, True, worker=-1)),
    )
    refuses(
        "num_participants must be at least 1, got 0",
        lambda: ops.mean_gradient(mean, [1.0], **place(0, 0, True)),
    )
    for timeout in (0.0, -3.0, float("nan"), float("inf")):
        refuses(
            "worker_timeout_ms must be more than 0 milliseconds and at most a year, got",
            lambda t=timeout: ops.gradient_mean(t, next(names)),
        )
        refuses("worker_timeout_ms must be", lambda t=timeout: ops.round_table(2, t, next(names)))
    # A handle of another kind.
    refuses("ndle", lambda: ops.enter_round(mean, 0))
    refuses("ndle", lambda: ops.mean_gradient(table, [1.0], **place(0, 1, True)))


def test_one_name_is_one_thing():
    name = next(names)
    ops.round_table(2, NEVER, name)
    ops.gradient_mean(NEVER, f"{name}_mean")
    for call, wanted in (
        (lambda: ops.round_table(3, NEVER, name), "num_workers=3.*num_workers=2.*"),
        (lambda: ops.round_table(2, 5.0, name), "worker_timeout_ms=5, but.*=600000"),
        (lambda: ops.gradient_mean(5.0, f"{name}_mean"), "worker_timeout_ms=5, but.*=600000"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=f"{wanted}; use another"):
            call()


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("worker", tf.zeros([1], tf.int32), r"worker must be a scalar, got shape \[1\]"),
        ("round", tf.zeros([1, 1], tf.int64), r"round must be a scalar, got shape \[1,1\]"),
        ("num_participants", tf.ones([2], tf.int32), "num_participants must be a scalar"),
        ("leads", tf.ones([0], tf.bool), r"leads must be a scalar, got shape \[0\]"),
        ("values", tf.ones([]), r"values has shape \[\] and indices \[3\]; wanted"),
        ("values", tf.ones([2, 4]), r"values has shape \[2,4\] and indices \[3\]; wanted"),
        ("indices", tf.ones([3, 1], tf.int64), r"indices \[3,1\]; wanted \[n, ...\] and \[n\]"),
    ],
)
def test_wrong_shapes_that_a_graph_does_not_know(name, value, text):
    good = {"values": tf.ones([3, 4]), "indices": tf.range(3, dtype=tf.int64), **place(0, 1, True)}
    mean = ops.gradient_mean(NEVER, next(names))
    signature = [tf.TensorSpec(None, value.dtype) for value in good.values()]

    @tf.function(input_signature=signature)
    def run(values, indices, *where):
        return ops.mean_gradient(mean, tf.IndexedSlices(values, indices), *where).values

    np.testing.assert_array_equal(run(*good.values()), tf.ones([3, 4]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=text):
        run(*(good | {name: value}).values())
