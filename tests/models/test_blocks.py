"""The small stacks: numbers by hand, gradients, configuration, bad input."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models import Mlp, PredictionHead, image_tower
from tests.helpers import assert_gradients_match


def test_mlp_by_hand():
    mlp = Mlp((2, 1))
    mlp.build([None, 2])
    mlp(tf.zeros([1, 2]))
    mlp.set_weights([
        np.array([[1.0, -1.0], [2.0, 0.0]]), np.array([0.0, 1.0]), np.array([0.5, 0.25]),
        np.array([[2.0], [4.0]]), np.array([-10.0]), np.array([0.1]),
    ])  # fmt: skip
    # [1, 2] -> [5, 0] -> prelu [5, 0] -> 10 - 10 = 0;  [3, 1] -> [5, -2] -> [5, -0.5] -> -2 -> -0.2
    np.testing.assert_allclose(mlp(tf.constant([[1.0, 2.0], [3.0, 1.0]])), [[0.0], [-0.2]])


@pytest.mark.parametrize("shape", [(1, 3), (5, 3), (0, 3), (2, 4, 3), (2, 0, 3)])
def test_mlp_takes_any_leading_shape_and_unknown_ones(shape):
    mlp = Mlp((8, 4), dropout=0.2)
    inputs = tf.random.stateless_normal(shape, [1, 2])
    rank = len(shape)
    traced = tf.function(mlp, input_signature=[tf.TensorSpec([None] * (rank - 1) + [3])])
    assert traced(inputs).shape == (*shape[:-1], 4)
    assert [w.shape.num_elements() for w in mlp.weights] == [24, 8, 8, 32, 4, 4]
    np.testing.assert_allclose(traced(inputs), mlp(inputs), rtol=1e-6)


def test_mlp_without_layers_is_the_identity():
    assert Mlp(())(tf.constant([[1.0, 2.0]])).numpy().tolist() == [[1.0, 2.0]]


def test_mlp_gradients():
    keras.utils.set_random_seed(3)
    mlp = Mlp((6, 3))
    inputs = tf.random.stateless_normal([20, 4], [1, 2])
    mlp(inputs)
    assert_gradients_match(
        lambda: tf.reduce_mean((mlp(inputs) - 1.0) ** 2), mlp.trainable_variables
    )


def test_mlp_layers_of_one_shape_start_different():
    mlp = Mlp((4, 4))
    mlp(tf.zeros([1, 4]))
    kernels = [w.numpy() for w in mlp.weights if "kernel" in w.name]
    assert not np.allclose(kernels[0], kernels[1])


def test_mlp_dropout_is_for_training_only():
    mlp = Mlp((50,), "linear", dropout=0.5)
    inputs = tf.ones([4, 10])
    np.testing.assert_array_equal(mlp(inputs, training=False), mlp(inputs, training=False))
    dropped = np.mean(mlp(inputs, training=True).numpy() == 0)
    assert 0.3 < dropped < 0.7


def test_mlp_config_round_trip():
    mlp = Mlp((5, 2), "relu", 0.1, "he_normal", keras.regularizers.L2(0.5), name="top")
    again = keras.layers.deserialize(keras.layers.serialize(mlp))
    assert again.get_config() == mlp.get_config()
    assert (again.widths, again.activation, again.dropout) == ((5, 2), "relu", 0.1)
    assert float(again.kernel_regularizer.l2) == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (4, 0)}, r"widths is \(4, 0\); give whole numbers of at least 1"),
        ({"widths": 4}, r"widths is 4; give whole numbers"),
        ({"widths": (4,), "dropout": 1.0}, r"dropout is 1.0; give a share"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    for make in (Mlp, image_tower):
        with pytest.raises(ConfigError, match=message):
            make(**arguments)


def test_unknown_activation_and_no_width():
    with pytest.raises(ConfigError, match="activation is 'prelo'; use 'prelu', 'dice' or"):
        Mlp((4,), "prelo")(tf.zeros([1, 2]))
    with pytest.raises(ConfigError, match="widths is empty; the last width"):
        image_tower(())
    with pytest.raises(ConfigError, match="activation is 'dice', which depends on the batch"):
        image_tower((4,), "dice")


def test_head_by_hand_and_float32():
    head = PredictionHead()
    head.build(None)
    head(tf.zeros([1, 2]))
    head.set_weights([np.array([[1.0], [2.0]]), np.array([-1.0])])
    got = head(tf.constant([[1.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(got, [[0.5], [1 / (1 + np.exp(-1))]], rtol=1e-6)
    half = PredictionHead(dtype="float16")
    assert half(tf.zeros([1, 2], tf.float16)).dtype == tf.float32


def test_cross_entropy_finds_the_logits_behind_the_head():
    head = PredictionHead()
    head(tf.zeros([1, 1]))
    head.set_weights([np.array([[1.0]]), np.array([0.0])])

    @tf.function
    def loss(inputs):
        return keras.losses.BinaryCrossentropy()(tf.zeros([1, 1]), head(inputs))

    # From probabilities alone the loss would stop growing at -log(1e-7) = 16.1.
    assert float(loss(tf.constant([[80.0]]))) == pytest.approx(80.0)


def test_image_tower_is_4096_256_64_12_with_prelu():
    tower = image_tower()
    assert tower(tf.zeros([2, 4096])).shape == (2, 12)
    shapes = [tuple(w.shape) for w in tower.weights]
    assert shapes == [
        (4096, 256), (256,), (256,), (256, 64), (64,), (64,), (64, 12), (12,), (12,),
    ]  # fmt: skip
    again = keras.Sequential.from_config(tower.get_config())
    again(tf.zeros([2, 4096]))
    again.set_weights(tower.get_weights())
    features = tf.random.stateless_normal([3, 4096], [4, 5])
    np.testing.assert_array_equal(again(features), tower(features))


def test_image_tower_drops_inner_outputs_only():
    kinds = [type(layer).__name__ for layer in image_tower((4, 2), dropout=0.5).layers]
    assert kinds == ["Dense", "PReLU", "Dropout", "Dense", "PReLU"]
