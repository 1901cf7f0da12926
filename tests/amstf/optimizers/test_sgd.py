"""SGD and Ftrl on ordinary variables; on rows of dynamic tables: test_dynamic_embedding.py."""

import threading

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from amstf.optimizers import SGD, Ftrl
from tests.amstf.optimizers.test_adam import data, model


def test_sgd_equals_keras_without_a_momentum_variable():
    rate = keras.optimizers.schedules.ExponentialDecay(0.2, 3, 0.9)
    ours, theirs = model(SGD(rate)), model(keras.optimizers.SGD(rate, jit_compile=False))
    for network in (ours, theirs):
        network.fit(*data(touch_all=False), batch_size=10, epochs=2, shuffle=False, verbose=0)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    assert sum(v.shape.num_elements() for v in ours.optimizer.variables) <= 2, "step and rate"


def test_sgd_threads_that_update_one_row_lose_nothing():
    table, optimizer = tf.Variable(tf.zeros([2, 64])), SGD(1.0)
    optimizer.build([table])
    gradient = tf.IndexedSlices(tf.ones([1, 64]), tf.constant([1]))

    def work():
        for _ in range(200):
            optimizer.update_step(gradient, table)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(table.numpy(), [[0.0] * 64, [-800.0] * 64])


def test_ftrl_updates_other_variables_as_keras_does():
    options = {"learning_rate": 0.1, "l1_regularization_strength": 0.01, "beta": 0.2}
    values = []
    for optimizer in (Ftrl(**options), keras.optimizers.Ftrl(**options, jit_compile=False)):
        weights = tf.Variable([1.0, -2.0, 3.0])
        for step in range(3):
            optimizer.apply_gradients([(tf.constant([0.5, -1.0, step]), weights)])
        values.append(weights.numpy())
    np.testing.assert_array_equal(*values)


def test_configuration_round_trip_and_refusal():
    for optimizer in (SGD(0.5), Ftrl(0.5, beta=0.1)):
        copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
        assert type(copy) is type(optimizer) and copy.get_config() == optimizer.get_config()
    for arguments in ({"momentum": 0.9}, {"nesterov": True}):
        with pytest.raises(ConfigError, match="momentum is not supported"):
            SGD(**arguments)
