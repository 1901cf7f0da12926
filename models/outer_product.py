"""The outer products of field vectors of PNN."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class OuterProduct(keras.layers.Layer):
    """The sum of the outer products of all pairs of field vectors.

    `p = sum_i sum_j f_i f_j^T = s s^T` with `s = sum_i f_i` (OPNN, arXiv 1611.00144, section 3, its
    superposition): D^2 floats, where the products one by one would be N^2 D^2.

    Example:
        >>> OuterProduct()(tf.constant([[[1.0, 2.0], [3.0, 4.0]]])).numpy().tolist()
        [[16.0, 24.0, 24.0, 36.0]]
    """

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Maps [B, N, D] to [B, D * D]."""
        total = tf.reduce_sum(vectors, axis=1)
        return tf.reshape(total[:, :, None] * total[:, None, :], [-1, vectors.shape[-1] ** 2])
