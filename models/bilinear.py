"""Bilinear interaction of field vectors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models.keras_names import PACKAGE

ALL, EACH, INTERACTION = BILINEAR = ("all", "each", "interaction")
"""One matrix for all pairs, one for each first field, one for each pair."""


@keras.utils.register_keras_serializable(package=PACKAGE)
class BilinearInteraction(keras.layers.Layer):
    """Products of all pairs of field vectors, the first of each mapped by a matrix before.

    `p_ij = (v_i W) * v_j` for i < j with elementwise `*` (FiBiNET, arXiv 1905.09433, section 3.3).
    W is one D x D matrix ("all"), W_i of the first field ("each"), or W_ij ("interaction").

    The pairs of one first field are computed together: N - 1 products of matrices, where a pair at
    a time would be N (N - 1) / 2 small ones.

    Args:
        kind: One of `BILINEAR`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ConfigError: If it is none of them; when it is built, if there is no pair.

    Example:
        >>> BilinearInteraction("each")(tf.zeros([2, 5, 4])).shape
        TensorShape([2, 10, 4])
    """

    def __init__(self, kind: str = INTERACTION, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if kind not in BILINEAR:
            raise ConfigError(f"kind is {kind!r}; use {', '.join(BILINEAR)}")
        self.kind = kind

    def build(self, input_shape: Any) -> None:
        """Makes the matrices: [D, D], [N - 1, D, D], or for each first field i [D, (N-1-i) D]."""
        count, width = tf.TensorShape(input_shape)[1:]
        if count < 2:
            raise ConfigError(f"bilinear interaction is of pairs of fields; got {count} field")
        # Glorot's of a D x D matrix, which Keras would not see in several side by side.
        limit = (6 / (2 * width)) ** 0.5
        if self.kind == ALL:
            shapes = {"kernel": [width, width]}
        elif self.kind == EACH:
            shapes = {"kernel": [count - 1, width, width]}
        else:
            shapes = {f"kernel_{i}": [width, (count - 1 - i) * width] for i in range(count - 1)}
        self.kernels = [
            # An initializer without a seed must not be shared: it repeats its numbers.
            self.add_weight(
                name, shape, initializer=keras.initializers.RandomUniform(-limit, limit)
            )
            for name, shape in shapes.items()
        ]
        super().build(input_shape)

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Maps [B, N, D] to [B, N (N - 1) / 2, D]."""
        count, width = vectors.shape[1:]
        if self.kind == ALL:
            mapped = tf.unstack(tf.tensordot(vectors, self.kernels[0], 1)[:, :, None], axis=1)
        elif self.kind == EACH:
            each = tf.einsum("bnd,nde->bne", vectors[:, :-1], self.kernels[0])
            mapped = tf.unstack(each[:, :, None], axis=1)
        else:
            mapped = [
                tf.reshape(tf.matmul(vectors[:, i], kernel), [-1, count - 1 - i, width])
                for i, kernel in enumerate(self.kernels)
            ]
        products = [mapped[i] * vectors[:, i + 1 :] for i in range(count - 1)]
        return tf.concat(products, axis=1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "kind": self.kind}
