"""The inner products of field vectors of PNN."""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

from models.keras_names import PACKAGE
from models.pairs import products_of_pairs


@keras.utils.register_keras_serializable(package=PACKAGE)
class InnerProducts(keras.layers.Layer):
    """The inner products of all pairs of field vectors, one by one.

    `p_ij = <f_i, f_j>` for i < j (IPNN, arXiv 1611.00144, section 3). The paper's p is symmetric
    with a diagonal; both halves say the same, and the diagonal is a function of one field.

    Example:
        >>> InnerProducts()(tf.constant([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])).numpy().tolist()
        [[11.0, 17.0, 39.0]]
    """

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Maps [B, N, D] to [B, P], P = N (N - 1) / 2."""
        return products_of_pairs(vectors)
