"""Squeeze and excitation of field vectors: which fields matter for a sample."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from models.cross_network import checked_count
from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class Senet(keras.layers.Layer):
    """Scales each field's vector by a weight that all fields decide (FiBiNET's SENET layer).

    `z_i = mean_d v_id`, `a = relu(W_2 relu(W_1 z))`, `v'_i = a_i v_i` with W_1 from N to
    max(1, N / r) units (arXiv 1905.09433, section 3.2: squeeze, excitation, re-weight).

    Args:
        reduction: r.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ConfigError: If r is below 1.

    Example:
        >>> Senet()(tf.zeros([2, 5, 4])).shape
        TensorShape([2, 5, 4])
    """

    def __init__(self, reduction: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reduction = checked_count("reduction", reduction)

    def build(self, input_shape: Any) -> None:
        """Makes W_1 and W_2."""
        count = tf.TensorShape(input_shape)[1]
        reduced = max(1, count // self.reduction)
        initializer = "glorot_uniform"
        self.squeeze = self.add_weight("squeeze", [count, reduced], initializer=initializer)
        self.excite = self.add_weight("excite", [reduced, count], initializer=initializer)
        super().build(input_shape)

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Maps [B, N, D] to [B, N, D]."""
        means = tf.reduce_mean(vectors, axis=-1)
        reduced = tf.nn.relu(tf.matmul(means, self.squeeze))
        return vectors * tf.nn.relu(tf.matmul(reduced, self.excite))[:, :, None]

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "reduction": self.reduction}
