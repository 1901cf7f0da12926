"""Adam in one kernel: by hand, against Keras' Adam, refusals, saving, many writers at once."""

import threading

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from amstf.ops import sparse_adam
from amstf.optimizers import Adam

SETTINGS = {"learning_rate": 0.1, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-4}


def reference(weights, first, second, values, rows, step):
    """Adam (arXiv 1412.6980, end of section 2) on some rows, in float64."""
    for row, g in zip(rows, np.asarray(values, np.float64), strict=True):
        first[row] = 0.9 * first[row] + 0.1 * g
        second[row] = 0.99 * second[row] + 0.01 * g**2
        size = 0.1 * np.sqrt(1 - 0.99**step) / (1 - 0.9**step)
        weights[row] -= size * first[row] / (np.sqrt(second[row]) + 1e-4)


def variables(*shape, seed=0):
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=shape), rng.normal(size=shape), rng.random(shape)]
    return [tf.Variable(value.astype(np.float32)) for value in values]


def test_one_step_by_hand():
    table, first, second = (tf.Variable([[1.0], [5.0]]), *(tf.Variable([[0.0]] * 2) for _ in "mv"))
    gradient = tf.IndexedSlices(tf.constant([[2.0]]), tf.constant([1]))
    sparse_adam(table, first, second, gradient, **SETTINGS, step=1)
    assert first.numpy().ravel() == pytest.approx([0.0, 0.2])
    assert second.numpy().ravel() == pytest.approx([0.0, 0.04])
    # The first step has the size of the learning rate, whatever the gradient.
    assert table.numpy().ravel() == pytest.approx([1.0, 4.9], abs=1e-4)


@pytest.mark.parametrize("index_type", [tf.int32, tf.int64])
@pytest.mark.parametrize("rows", [[], [4], [6, 0, 3], list(range(7))])
@pytest.mark.parametrize("shape", [(7,), (7, 1), (7, 5), (7, 2, 3)])
def test_equals_the_formula(shape, rows, index_type):
    tensors = variables(*shape)
    wanted = [tensor.numpy().astype(np.float64) for tensor in tensors]
    rng = np.random.default_rng(1)
    for step in (1, 2, 1000):
        values = rng.normal(size=(len(rows), *shape[1:])).astype(np.float32)
        gradient = tf.IndexedSlices(tf.constant(values), tf.constant(rows, index_type))
        sparse_adam(*tensors, gradient, **SETTINGS, step=step)
        reference(*wanted, values, rows, step)
    for tensor, value in zip(tensors, wanted, strict=True):
        np.testing.assert_allclose(tensor.numpy(), value, rtol=2e-5, atol=2e-6)


def test_an_earlier_reader_keeps_what_it_read():
    tensors = variables(3, 2)
    before = tensors[0].read_value()
    copy = before.numpy().copy()
    gradient = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([1]))
    sparse_adam(*tensors, gradient, **SETTINGS, step=1)
    np.testing.assert_array_equal(before.numpy(), copy)
    assert (tensors[0].numpy()[1] != copy[1]).all()


@pytest.mark.parametrize(
    ("values", "rows", "message"),
    [
        ([[1.0, 1.0]], [3], r"row 3 is outside the table of 3 rows"),
        ([[1.0, 1.0]], [-1], r"row -1 is outside"),
        ([[1.0]], [0], r"wanted a gradient for each row of \[3,2\]"),
    ],
)
def test_bad_gradients_are_errors_and_change_nothing(values, rows, message):
    tensors = variables(3, 2)
    before = tensors[0].numpy()
    gradient = tf.IndexedSlices(tf.constant(values), tf.constant(rows))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        sparse_adam(*tensors, gradient, **SETTINGS, step=1)
    np.testing.assert_array_equal(tensors[0].numpy(), before)


def test_step_and_moments_are_checked():
    table, first, second = variables(3, 2)
    gradient = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([0]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="step counts from 1, got 0"):
        sparse_adam(table, first, second, gradient, **SETTINGS, step=0)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must be three variables"):
        sparse_adam(table, first, first, gradient, **SETTINGS, step=1)
    with pytest.raises(tf.errors.InvalidArgumentError, match="second_moment has shape"):
        sparse_adam(table, first, variables(2, 2)[0], gradient, **SETTINGS, step=1)


def test_threads_that_update_one_row_lose_nothing():
    # Every gradient is 1, so after n steps of beta 0 the first moment is 1 and each step is equal.
    table, first, second = (tf.Variable(tf.zeros([2, 64])) for _ in range(3))
    gradient = tf.IndexedSlices(tf.ones([1, 64]), tf.constant([1]))
    same = {"learning_rate": 1.0, "beta1": 0.0, "beta2": 0.0, "epsilon": 0.0}

    def work():
        for _ in range(200):
            sparse_adam(table, first, second, gradient, **same, step=1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(table.numpy(), [[0.0] * 64, [-800.0] * 64])


def model(optimizer):
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input([4], dtype=tf.int64),
            keras.layers.Embedding(40, 3),
            keras.layers.Flatten(),
            keras.layers.PReLU(),
            keras.layers.Dense(1),
        ]
    )
    network.compile(optimizer, "mse")
    return network


def data(touch_all):
    ids = np.arange(240) if touch_all else np.random.default_rng(2).integers(0, 40, 240)
    return (ids % 40).reshape(60, 4), np.random.default_rng(3).normal(size=(60, 1))


@pytest.mark.parametrize("schedule", [False, True])
def test_equals_keras_where_every_row_is_touched(schedule):
    rate = keras.optimizers.schedules.ExponentialDecay(0.02, 3, 0.9) if schedule else 0.02
    ours, theirs = model(Adam(rate)), model(keras.optimizers.Adam(rate))
    for network in (ours, theirs):
        network.fit(*data(touch_all=True), batch_size=10, epochs=4, shuffle=False, verbose=0)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_rows_that_no_batch_touches_stay():
    network = model(Adam(0.02))
    before = network.layers[0].get_weights()[0]
    ids, labels = data(touch_all=False)
    network.fit(ids % 10, labels, verbose=0)
    after = network.layers[0].get_weights()[0]
    np.testing.assert_array_equal(after[10:], before[10:])
    assert (after[:10] != before[:10]).all()


def test_checkpoint_keeps_the_moments(tmp_path):
    ids, labels = data(touch_all=True)
    straight = model(Adam(0.02))
    straight.fit(ids, labels, batch_size=10, epochs=2, shuffle=False, verbose=0)
    first = model(Adam(0.02))
    first.fit(ids, labels, batch_size=10, epochs=1, shuffle=False, verbose=0)
    path = tf.train.Checkpoint(model=first, optimizer=first.optimizer).save(tmp_path / "c")
    second = model(Adam(0.02))
    second.optimizer.build(second.trainable_variables)
    tf.train.Checkpoint(model=second, optimizer=second.optimizer).restore(path).assert_consumed()
    second.fit(ids, labels, batch_size=10, epochs=1, shuffle=False, verbose=0)
    for one, other in zip(straight.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_configuration_round_trip_and_refusal():
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(Adam(0.5, beta_1=0.8)))
    assert isinstance(copy, Adam) and copy.beta_1 == 0.8
    assert float(copy.learning_rate) == 0.5
    with pytest.raises(ConfigError, match="amsgrad is not supported"):
        Adam(amsgrad=True)
