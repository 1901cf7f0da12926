"""FiBiNET: which fields matter for a sample, and bilinear products of pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from models.bilinear import INTERACTION, BilinearInteraction
from models.field_interaction import FieldInteraction
from models.field_model import LinearFieldModel
from models.keras_names import PACKAGE
from models.senet import Senet


@keras.utils.register_keras_serializable(package=PACKAGE)
class FiBiNetLayer(FieldInteraction):
    """Bilinear products of vectors, as they are and scaled, and an MLP above.

    `[sums, others, mlp([bilinear(v), bilinear'(senet(v)), others])]`, each with matrices of its
    own.

    Args:
        layout: As in `FieldInteraction`.
        widths: As in `FieldInteraction`.
        activation: As in `FieldInteraction`.
        dropout: As in `FieldInteraction`.
        bilinear: Kind of the `BilinearInteraction`.
        reduction: Of the `Senet`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
        >>> FiBiNetLayer((1, 3, 2), (4,))(tf.zeros([2, 1 + 3 * 2])).shape
        TensorShape([2, 5])
    """

    def __init__(
        self,
        layout: Sequence[int],
        widths: Sequence[int],
        activation: str = "prelu",
        dropout: float = 0.0,
        bilinear: str = INTERACTION,
        reduction: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(layout, widths, activation, dropout, **kwargs)
        self.senet = Senet(reduction, name="senet")
        self.bilinear = BilinearInteraction(bilinear, name="bilinear")
        self.scaled_bilinear = BilinearInteraction(bilinear, name="scaled_bilinear")

    def interact(self, sums: tf.Tensor, vectors: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        """Returns [B, L + others + MLP's width]."""
        products = tf.concat(
            [self.bilinear(vectors), self.scaled_bilinear(self.senet(vectors))], axis=1
        )
        products = tf.reshape(products, [-1, products.shape[1] * products.shape[2]])
        deep = self.mlp(tf.concat([products, others], axis=-1))
        return tf.concat([sums, others, deep], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "bilinear": self.bilinear.kind,
            "reduction": self.senet.reduction,
        }


@keras.utils.register_keras_serializable(package=PACKAGE)
class FiBiNet(LinearFieldModel):
    """Click model of feature importance and bilinear interaction.

    `p = sigmoid(w_0 + sum_i w_i x_i + w . mlp([p, q]))` with p the bilinear products of the
    fields' vectors and q those of the vectors that `Senet` scaled (FiBiNET, arXiv 1905.09433,
    section 3). A number is the field value times vector, and the MLP sees it as it is too; images,
    with `Dicm(schema, images, base="fibinet")`, are in the MLP and the linear part.

    Args:
        schema: The fields of a batch, all embeddings of one width.
        **kwargs: Arguments of `EmbeddingMlp`. Options of interaction: `bilinear`, "interaction",
            "each" or "all", and `reduction`; see `FiBiNetLayer`.

    Raises:
        SchemaError: If widths differ, or there are fewer than two fields.

    Example:
        >>> from amstf.schema import Field, Schema
        >>> schema = Schema((
        ...     Field("user", "sparse", vocabulary_size=9),
        ...     Field("ad", "sparse", vocabulary_size=9),
        ...     Field("click", "label")))
        >>> FiBiNet(schema)({"user": tf.constant([3, 8]), "ad": tf.constant([1, 1])}).shape
        TensorShape([2, 1])
    """

    @classmethod
    def make_mlp(
        cls,
        hidden: Sequence[int],
        activation: str | None,
        dropout: float,
        id_embedding: keras.layers.Layer,
        **options: Any,
    ) -> keras.layers.Layer:
        """Makes the `FiBiNetLayer`."""
        return FiBiNetLayer(
            id_embedding.layout,
            hidden,
            activation or "prelu",
            dropout,
            **options,
            name="interaction",
        )
