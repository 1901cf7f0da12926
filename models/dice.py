"""Dice, the activation of DIN that adapts to the data."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class Dice(keras.layers.Layer):
    """Data adaptive activation: a PReLU whose step is soft and sits at the mean of its input.

    `f(s) = p(s) s + (1 - p(s)) alpha s` with `p(s) = 1 / (1 + exp(-(s - E[s]) / sqrt(Var[s] +
    epsilon)))` for each unit (DIN, arXiv 1706.06978, section 5.3); alpha is learnt. E and Var are
    those of the mini-batch in training, and moving averages of them otherwise.

    On a cluster a worker takes the statistics of its own mini-batch, and all workers move one pair
    of averages: docs/design/models.md says what that means for synchronous rounds.

    Args:
        epsilon: Keeps the root away from 0.
        momentum: Share of the moving averages that stays in each training step.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ConfigError: If epsilon is not above 0 or momentum is not in [0, 1].

    Example:
        >>> print(Dice()(tf.constant([[0.0, 2.0]])).numpy().round(3))
        [[0.    1.762]]
    """

    def __init__(self, epsilon: float = 1e-8, momentum: float = 0.99, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not epsilon > 0:
            raise ConfigError(f"epsilon is {epsilon!r}; give a number above 0")
        if not 0 <= momentum <= 1:
            raise ConfigError(f"momentum is {momentum!r}; give a share from 0 to 1")
        self.epsilon = epsilon
        self.momentum = momentum

    def build(self, input_shape: Any) -> None:
        """Makes the slopes and the moving averages, one of each per unit."""
        shape = [tf.TensorShape(input_shape)[-1]]
        self.alpha = self.add_weight("alpha", shape, initializer="zeros")
        averages = {
            "shape": shape,
            "trainable": False,
            # As Keras' batch normalisation: one copy, whichever worker or replica writes.
            "aggregation": tf.VariableAggregation.MEAN,
            "experimental_autocast": False,
        }
        self.moving_mean = self.add_weight("moving_mean", initializer="zeros", **averages)
        self.moving_variance = self.add_weight("moving_variance", initializer="ones", **averages)
        super().build(input_shape)

    def call(
        self,
        inputs: tf.Tensor,
        counted: tf.Tensor | None = None,
        training: bool | None = None,
    ) -> tf.Tensor:
        """Activates.

        Args:
            inputs: [..., width] float.
            counted: [...] bool, the rows that the statistics count; all if None. What stands in
                the others (padding) must be finite and has no influence on the counted ones.
            training: Whether to use, and to learn, the statistics of this batch.

        Returns:
            [..., width] float.
        """
        mean, variance = self.moving_mean, self.moving_variance
        if training:
            mean, variance = self._statistics(tf.cast(inputs, tf.float32), counted)
        scale = tf.math.rsqrt(tf.convert_to_tensor(variance) + self.epsilon)
        share = tf.sigmoid((inputs - tf.cast(mean, inputs.dtype)) * tf.cast(scale, inputs.dtype))
        return inputs * (self.alpha + share * (1.0 - self.alpha))

    def _statistics(
        self, inputs: tf.Tensor, counted: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns mean and variance of the counted rows [width], and moves the averages."""
        axes = list(range(inputs.shape.rank - 1))
        if counted is None:
            weights = tf.ones_like(inputs[..., :1])
        else:
            weights = tf.cast(counted[..., tf.newaxis], inputs.dtype)
        count = tf.reduce_sum(weights)
        mean = tf.math.divide_no_nan(tf.reduce_sum(weights * inputs, axes), count)
        squares = weights * tf.math.squared_difference(inputs, mean)
        variance = tf.math.divide_no_nan(tf.reduce_sum(squares, axes), count)
        # A batch without a row says nothing.
        step = tf.where(count > 0, 1.0 - self.momentum, 0.0)
        for average, value in ((self.moving_mean, mean), (self.moving_variance, variance)):
            average.assign_sub((average - tf.stop_gradient(value)) * step)
        return mean, variance

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "epsilon": self.epsilon, "momentum": self.momentum}
