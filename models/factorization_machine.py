"""The second-order term of a factorization machine."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class FactorizationMachine(keras.layers.Layer):
    """Adds up the inner products of all pairs of field vectors.

    `sum_{i<j} <v_i, v_j> = 1/2 sum_d ((sum_i v_id)^2 - sum_i v_id^2)`: linear in the number of
    fields (DeepFM, arXiv 1703.04247, section 2.1). The vector of a field is the embedding of its
    id, or of a number x its vector times x: the paper's `<v_i, v_j> x_i x_j`.

    Example:
        >>> FactorizationMachine()(tf.constant([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])).numpy()
        array([[67.]], dtype=float32)
    """

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Maps [B, N, D] to [B, 1]."""
        return _products(vectors)


@tf.custom_gradient
def _products(vectors: tf.Tensor) -> Any:
    """The sum of all products; its gradient `(sum_j v_j) - v_i` is two operations, derived six."""
    total = tf.reduce_sum(vectors, axis=1)
    squares = tf.reduce_sum(tf.square(vectors), axis=[1, 2])
    products = 0.5 * (tf.reduce_sum(tf.square(total), axis=1) - squares)

    def backward(upstream: tf.Tensor) -> tf.Tensor:
        return (total[:, None] - vectors) * upstream[:, :, None]

    return products[:, None], backward
