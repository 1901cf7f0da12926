"""Adagrad in one kernel: by hand, against Keras' Adagrad, saving."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.optimizers import Adagrad
from tests.amstf.optimizers.test_adam import data, model


@pytest.mark.parametrize("sparse", [False, True])
def test_one_step_by_hand(sparse):
    optimizer = Adagrad(0.5, initial_accumulator_value=0.0)
    table = tf.Variable([[1.0], [5.0]])
    gradient = tf.constant([[0.0], [2.0]])
    if sparse:
        gradient = tf.IndexedSlices(gradient[1:], tf.constant([1]), tf.constant([2, 1]))
    optimizer.apply_gradients([(gradient, table)])
    # a = 4, and the step is 0.5 * 2 / 2.
    assert table.numpy().ravel() == pytest.approx([1.0, 4.5])
    optimizer.apply_gradients([(gradient, table)])
    assert table.numpy().ravel() == pytest.approx([1.0, 4.5 - 0.5 * 2 / np.sqrt(8)])


@pytest.mark.parametrize("touch_all", [False, True])
@pytest.mark.parametrize("schedule", [False, True])
def test_equals_keras(schedule, touch_all):
    rate = keras.optimizers.schedules.ExponentialDecay(0.2, 3, 0.9) if schedule else 0.2
    ours, theirs = model(Adagrad(rate)), model(keras.optimizers.Adagrad(rate))
    for network in (ours, theirs):
        network.fit(*data(touch_all), batch_size=10, epochs=4, shuffle=False, verbose=0)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_checkpoint_keeps_the_accumulators(tmp_path):
    ids, labels = data(touch_all=True)
    straight, first, second = (model(Adagrad(0.2)) for _ in range(3))
    straight.fit(ids, labels, batch_size=10, epochs=2, shuffle=False, verbose=0)
    first.fit(ids, labels, batch_size=10, epochs=1, shuffle=False, verbose=0)
    path = tf.train.Checkpoint(model=first, optimizer=first.optimizer).save(tmp_path / "c")
    second.optimizer.build(second.trainable_variables)
    tf.train.Checkpoint(model=second, optimizer=second.optimizer).restore(path).assert_consumed()
    second.fit(ids, labels, batch_size=10, epochs=1, shuffle=False, verbose=0)
    for one, other in zip(straight.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_configuration_round_trip():
    optimizer = Adagrad(0.5, initial_accumulator_value=0.3)
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy, Adagrad) and copy.initial_accumulator_value == 0.3
