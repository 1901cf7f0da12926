"""DeepFM: a factorization machine and an MLP on the same embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from models.factorization_machine import FactorizationMachine
from models.field_interaction import FieldInteraction
from models.field_model import LinearFieldModel
from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class DeepFmLayer(FieldInteraction):
    """A factorization machine beside an MLP: `[sums + fm(vectors), numbers, mlp(all)]`.

    Arguments are those of `FieldInteraction`. Of several labels the second-order term is one, in
    the sum of each.

    Example:
        >>> DeepFmLayer((1, 3, 2), (4,))(tf.zeros([2, 1 + 3 * 2 + 1])).shape
        TensorShape([2, 6])
    """

    def __init__(self, layout: Sequence[int], widths: Sequence[int], *args: Any, **kwargs: Any):
        super().__init__(layout, widths, *args, **kwargs)
        self.machine = FactorizationMachine(name="machine")

    def interact(self, sums: tf.Tensor, vectors: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        """Returns [B, L + others + MLP's width]."""
        deep = self.mlp(tf.concat([self.flat(vectors), others], axis=-1))
        return tf.concat([sums + self.machine(vectors), others, deep], axis=-1)


@keras.utils.register_keras_serializable(package=PACKAGE)
class DeepFm(LinearFieldModel):
    """Click model of first, second and higher order: `p = sigmoid(y_fm + y_deep)`.

    `y_fm = b + sum_i w_i x_i + sum_{i<j} <v_i, v_j> x_i x_j`, `y_deep = w . mlp([v_1 x_1, ...])`,
    with the same v in both (DeepFM, arXiv 1703.04247, section 2.1). x_i is 1 of an id and the value
    of a number; the MLP also sees numbers as they are. With images, `Dicm(schema, images,
    base="deepfm")`, the MLP and the linear part see their embeddings; the machine does not.

    Args:
        schema: The fields of a batch, all embeddings of one width.
        **kwargs: Arguments of `EmbeddingMlp`.

    Raises:
        SchemaError: If widths differ, or there are fewer than two fields.

    Example:
        >>> from amstf.schema import Field, Schema
        >>> schema = Schema((
        ...     Field("user", "sparse", vocabulary_size=9),
        ...     Field("ad", "sparse", vocabulary_size=9),
        ...     Field("click", "label")))
        >>> DeepFm(schema)({"user": tf.constant([3, 8]), "ad": tf.constant([1, 1])}).shape
        TensorShape([2, 1])
    """

    @classmethod
    def make_mlp(
        cls,
        hidden: Sequence[int],
        activation: str | None,
        dropout: float,
        id_embedding: keras.layers.Layer,
    ) -> keras.layers.Layer:
        """Makes the `DeepFmLayer`."""
        return DeepFmLayer(
            id_embedding.layout, hidden, activation or "prelu", dropout, name="interaction"
        )
