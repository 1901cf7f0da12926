"""Dice: numbers by hand, statistics of a batch and their moving averages, gradients."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models import Dice, Mlp
from tests.helpers import assert_gradients_match


def with_alpha(*alpha, **arguments):
    dice = Dice(**arguments)
    dice.build([None, len(alpha)])
    dice.alpha.assign(alpha)
    return dice


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def test_outside_of_training_by_hand():
    dice = with_alpha(0.5, 0.0)
    dice.moving_mean.assign([1.0, 0.0])
    dice.moving_variance.assign([4.0, 1.0])
    # (3 - 1) / 2 = 1 and (-2 - 0) / 1 = -2.
    p = sigmoid([1.0, -2.0])
    want = [[p[0] * 3 + (1 - p[0]) * 0.5 * 3, p[1] * -2]]
    before = dice.get_weights()
    np.testing.assert_allclose(dice(tf.constant([[3.0, -2.0]])), want, rtol=1e-6)
    for one, other in zip(before, dice.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_training_by_hand():
    dice = with_alpha(0.5, momentum=0.75)
    # Mean 2, variance 4: the inputs lie one standard deviation from the mean.
    got = dice(tf.constant([[0.0], [4.0]]), training=True)
    np.testing.assert_allclose(got, [[0.0], [4 * (sigmoid(1) + 0.5 * (1 - sigmoid(1)))]], rtol=1e-6)
    np.testing.assert_allclose(dice.moving_mean, [0.5])  # 0.75 * 0 + 0.25 * 2
    np.testing.assert_allclose(dice.moving_variance, [1.75])  # 0.75 * 1 + 0.25 * 4


def test_only_counted_rows_make_the_statistics():
    inputs = tf.random.stateless_normal([3, 4, 2], [1, 2])
    counted = tf.constant([[True, True, False, False], [True, False, False, False], [False] * 4])
    dice, alone = with_alpha(0.1, 0.2), with_alpha(0.1, 0.2)
    got = dice(inputs, counted, training=True)
    want = alone(tf.boolean_mask(inputs, counted), training=True)
    np.testing.assert_allclose(tf.boolean_mask(got, counted), want, rtol=1e-5)
    for one, other in zip(dice.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("shape", [(1, 2), (0, 2), (2, 0, 2), (1, 1, 2)])
def test_batches_of_one_and_of_none_are_finite(shape):
    dice = with_alpha(0.1, 0.2)
    inputs = tf.ones(shape)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        got = dice(inputs, training=True)
    assert got.shape == shape
    gradients = tape.gradient(got, [inputs, *dice.trainable_variables])
    for values in (got, *gradients, *dice.get_weights()):
        assert np.all(np.isfinite(values))
    if not inputs.shape.num_elements():
        np.testing.assert_array_equal(dice.moving_variance, [1.0, 1.0])


@pytest.mark.parametrize("training", [False, True])
def test_gradients(training):
    keras.utils.set_random_seed(3)
    inputs = tf.Variable(tf.random.stateless_normal([12, 3], [1, 2]))
    # The averages stand still, as the loss is computed again and again.
    dice = Dice(momentum=1.0)
    loss = lambda: tf.reduce_sum((dice(inputs, training=training) - 1.0) ** 2)  # noqa: E731
    loss()
    assert_gradients_match(loss, [inputs, dice.alpha])


def test_mlp_with_dice_survives_saving_and_its_config(tmp_path):
    mlp = Mlp((4, 3), "dice", name="top")
    inputs = tf.random.stateless_normal([6, 2], [1, 2])
    mlp(inputs, training=True)
    assert len(mlp.trainable_variables) == 6 and len(mlp.non_trainable_variables) == 4
    again = keras.layers.deserialize(keras.layers.serialize(mlp))
    path = tf.train.Checkpoint(mlp).save(str(tmp_path / "mlp"))
    tf.train.Checkpoint(again).restore(path)
    np.testing.assert_array_equal(again(inputs), mlp(inputs))
    assert again.get_config() == mlp.get_config()
    dice = Dice(1e-6, 0.9, name="a")
    assert Dice.from_config(dice.get_config()).get_config() == dice.get_config()


def test_bad_arguments_are_named():
    with pytest.raises(ConfigError, match=r"epsilon is 0; give a number above 0"):
        Dice(epsilon=0)
    with pytest.raises(ConfigError, match=r"momentum is 1.5; give a share"):
        Dice(momentum=1.5)
