"""What is above the embeddings in a model of field interactions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from models.blocks import Mlp
from models.field_embedding import FieldLayout


class FieldInteraction(keras.layers.Layer):
    """Base of layers that multiply the vectors of fields and have an MLP beside or above.

    Such a layer takes the place of a base network's MLP: it takes what `FieldEmbedding` gives, and
    what a model with images appends to that. A subclass overrides `interact`.

    Args:
        layout: Of the input, see `FieldEmbedding.layout`.
        widths: Widths of the MLP.
        activation: Of the MLP, see `models.blocks.Mlp`.
        dropout: Of the MLP.
        **kwargs: Arguments of `keras.layers.Layer`.
    """

    def __init__(
        self,
        layout: Sequence[int],
        widths: Sequence[int],
        activation: str = "prelu",
        dropout: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.layout = FieldLayout(*layout)
        self.mlp = Mlp(widths, activation, dropout, name="mlp")

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps [B, L + N D + others] to what the model's head takes, [B, any width]."""
        return self.interact(*self.layout.split(inputs))

    def interact(self, sums: tf.Tensor, vectors: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        """Does the work.

        Args:
            sums: [B, L], of the linear part; L may be 0.
            vectors: [B, N, D], one per field.
            others: [B, any width], numbers as they are, and images.

        Returns:
            [B, any width].
        """
        raise NotImplementedError

    def flat(self, vectors: tf.Tensor) -> tf.Tensor:
        """Returns vectors side by side, [B, N D]."""
        return tf.reshape(vectors, [-1, self.layout.num_fields * self.layout.width])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "layout": list(self.layout),
            "widths": list(self.mlp.widths),
            "activation": self.mlp.activation,
            "dropout": self.mlp.dropout,
        }
