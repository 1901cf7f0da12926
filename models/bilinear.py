"""Bilinear interaction of field vectors."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from models.keras_names import PACKAGE
from models.pairs import pairs
from models.row_gather import take_rows

ALL, EACH, INTERACTION = BILINEAR = ("all", "each", "interaction")
"""One matrix for all pairs, one for each first field, one for each pair."""


@keras.utils.register_keras_serializable(package=PACKAGE)
class BilinearInteraction(keras.layers.Layer):
    """Products of all pairs of field vectors, the first of each mapped by a matrix before.

    `p_ij = (v_i W) * v_j` for i < j with elementwise `*` (FiBiNET, arXiv 1905.09433, section 3.3).
    W is one D x D matrix ("all"), W_i of the first field ("each"), or W_ij ("interaction").

    All pairs are one product of stacks of matrices, the fields in front; each would be a small one.

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
        """Makes the matrices: [D, D], [N - 1, D, D] or [P, D, D]."""
        count, width = tf.TensorShape(input_shape)[1:]
        if count < 2:
            raise ConfigError(f"bilinear interaction is of pairs of fields; got {count} field")
        stacks = {ALL: [], EACH: [count - 1], INTERACTION: [count * (count - 1) // 2]}
        # Glorot's of a D x D matrix, which Keras would not see in a stack of them.
        limit = (6 / (2 * width)) ** 0.5
        self.kernel = self.add_weight(
            "kernel",
            [*stacks[self.kind], width, width],
            initializer=keras.initializers.RandomUniform(-limit, limit),
        )
        super().build(input_shape)

    def call(self, vectors: tf.Tensor) -> tf.Tensor:
        """Maps [B, N, D] to [B, N (N - 1) / 2, D]."""
        first, second = pairs(vectors.shape[1])
        fields = tf.transpose(vectors, [1, 0, 2])
        if self.kind == INTERACTION:
            mapped = tf.matmul(take_rows(fields, first), self.kernel)
        else:
            # The last field is the first of no pair.
            mapped = take_rows(tf.matmul(fields[:-1], self.kernel), first)
        return tf.transpose(mapped * take_rows(fields, second), [1, 0, 2])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "kind": self.kind}
