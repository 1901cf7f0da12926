import concurrent.futures
import itertools

import numpy as np
import pytest
import tensorflow as tf

from amstf import ops

names = map("test_replica_state_{}".format, itertools.count())
SHAPES = [(3, 2), (), (1,), (0, 4)]


@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("sync_every", [1, 2, 3, 5])
def test_exchanges_every_so_many_rounds(sync_every, in_function):
    name = next(names)

    def step(is_leader, *gradients):
        state = ops.replica_state(sync_every, name)
        return ops.begin_round(state, is_leader), ops.accumulate_gradients(state, gradients)

    specs = [tf.TensorSpec([], tf.bool), *[tf.TensorSpec(None, tf.float32)] * len(SHAPES)]
    run = tf.function(step, input_signature=specs) if in_function else step
    rng = np.random.default_rng(sync_every)
    kept = [np.zeros(shape, "f4") for shape in SHAPES]
    for number in range(2 * sync_every + 3):
        state = ops.replica_state(sync_every, name)
        assert not ops.begin_round(state, False), "who does not lead neither refreshes nor counts"
        gradients = [rng.normal(size=shape).astype("f4") for shape in SHAPES]
        refresh, sums = run(tf.constant(True), *map(tf.constant, gradients))
        assert bool(refresh) == (number % sync_every == 0)
        kept = [total + gradient for total, gradient in zip(kept, gradients, strict=True)]
        if number % sync_every < sync_every - 1:
            assert [total.shape for total in sums] == [[0]] * len(SHAPES)
            continue
        for total, wanted in zip(sums, kept, strict=True):
            assert total.shape == wanted.shape
            np.testing.assert_array_equal(total, wanted)
        kept = [np.zeros(shape, "f4") for shape in SHAPES]


def test_many_threads_lose_nothing():
    state = ops.replica_state(3, next(names))

    def work(_):
        refreshed, total = 0, 0.0
        for _ in range(30):
            refreshed += int(ops.begin_round(state, True))
            (part,) = ops.accumulate_gradients(state, [tf.ones([2])])
            total += float(tf.reduce_sum(part))
        return refreshed, total

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        refreshed, totals = zip(*pool.map(work, range(4)), strict=True)
    assert sum(refreshed) == 40 and sum(totals) == 240


def test_gradients_unlike_those_kept_are_refused():
    state = ops.replica_state(2, next(names))
    ops.accumulate_gradients(state, [tf.ones([2]), tf.ones([3])])
    for gradients, text in (
        ([tf.ones([2])], "got 1 gradients, wanted 2 as in the rounds before"),
        ([tf.ones([2]), tf.ones([0])], "gradient 1 has 0 elements, wanted 3 as in the rounds"),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match=text):
            ops.accumulate_gradients(state, gradients)
    sums = ops.accumulate_gradients(state, [tf.ones([2]), tf.ones([3])])
    np.testing.assert_array_equal(tf.concat(sums, 0), [2] * 5)


def test_nonsense_is_refused():
    name = next(names)
    ops.replica_state(2, name)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"is 3, but .* with 2; use another"):
        ops.replica_state(3, name)
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError), match="sync_every"):
        ops.replica_state(0, next(names))
    run = tf.function(
        lambda leads: ops.begin_round(ops.replica_state(2, name), leads),
        input_signature=[tf.TensorSpec(None, tf.bool)],
    )
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"is_leader must be a .* shape \[1\]"):
        run(tf.constant([True]))


@pytest.mark.parametrize("in_function", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
@pytest.mark.parametrize("present", [*itertools.product([False, True], repeat=3)])
def test_sum_of_those_present(present, shape, in_function):
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=shape).astype("f4") if here else np.zeros(0, "f4") for here in present]
    signature = [[tf.TensorSpec(None, tf.float32)] * 3]
    run = lambda tensors: ops.sum_present(tensors, int(np.prod(shape)))  # noqa: E731
    if in_function:
        run = tf.function(run, input_signature=signature)
    tensors = [tf.constant(part) for part in parts]
    total = run(tensors)
    wanted = [part for part, here in zip(parts, present, strict=True) if here]
    if not wanted:
        assert total.shape == [0]
        return
    assert total.shape == shape
    np.testing.assert_array_equal(total, sum(wanted[1:], start=wanted[0]))
    for tensor, part in zip(tensors, parts, strict=True):
        np.testing.assert_array_equal(tensor, part)  # the inputs are not written to


def test_the_sum_has_the_shape_of_the_first_part_present():
    parts = [tf.zeros([0]), tf.ones([3, 2]), tf.ones([6])]
    assert ops.sum_present(parts, 6).shape == [3, 2]
    assert ops.sum_present(parts[::-1], 6).shape == [6]


def test_a_part_of_another_size_is_refused():
    for others in ([], [tf.ones([2])]):
        text = r"part 0 has shape \[3,1\], wanted 2 elements, or none for an absent part"
        with pytest.raises(tf.errors.InvalidArgumentError, match=text):
            ops.sum_present([tf.ones([3, 1]), *others], 2)
