"""PNN: an MLP on embeddings and on the products of pairs of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError
from amstf.schema import Schema
from models.embedding_mlp import EmbeddingMlp
from models.field_embedding import FieldEmbedding
from models.field_interaction import FieldInteraction
from models.inner_products import InnerProducts
from models.keras_names import PACKAGE
from models.outer_product import OuterProduct

INNER, OUTER, BOTH = PRODUCTS = ("inner", "outer", "both")
"""Products that PNN's MLP sees."""


@keras.utils.register_keras_serializable(package=PACKAGE)
class PnnLayer(FieldInteraction):
    """The product layer and the MLP above it: `mlp([vectors, products, others])`.

    Args:
        layout: As in `FieldInteraction`.
        widths: As in `FieldInteraction`.
        activation: As in `FieldInteraction`.
        dropout: As in `FieldInteraction`.
        products: One of `PRODUCTS`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ConfigError: If products is none of them.

    Example:
        >>> PnnLayer((0, 3, 2), (4,), products="both")(tf.zeros([2, 3 * 2])).shape
        TensorShape([2, 4])
    """

    def __init__(
        self,
        layout: Sequence[int],
        widths: Sequence[int],
        activation: str = "prelu",
        dropout: float = 0.0,
        products: str = INNER,
        **kwargs: Any,
    ) -> None:
        super().__init__(layout, widths, activation, dropout, **kwargs)
        if products not in PRODUCTS:
            raise ConfigError(f"products is {products!r}; use {', '.join(PRODUCTS)}")
        self.products = products
        self.inner = InnerProducts(name="inner") if products in (INNER, BOTH) else None
        self.outer = OuterProduct(name="outer") if products in (OUTER, BOTH) else None

    def interact(self, sums: tf.Tensor, vectors: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
        """Returns [B, MLP's width]."""
        products = [layer(vectors) for layer in (self.inner, self.outer) if layer is not None]
        return self.mlp(tf.concat([sums, self.flat(vectors), *products, others], axis=-1))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "products": self.products}


@keras.utils.register_keras_serializable(package=PACKAGE)
class Pnn(EmbeddingMlp):
    """Product-based neural network: `p = sigmoid(w . mlp([z, products]) + b)`.

    z are the vectors of the fields side by side, the linear signals; products are the inner ones of
    all pairs (IPNN, `InnerProducts`), the outer one of their sum (OPNN, `OuterProduct`) or both
    (arXiv 1611.00144, section 3). A number is the field value times vector, and is in z as it is
    too; images, with `Dicm(schema, images, base="pnn")`, are in z.

    Args:
        schema: The fields of a batch, all embeddings of one width.
        **kwargs: Arguments of `EmbeddingMlp`. Options of interaction: `products`, one of
            `PRODUCTS`.

    Raises:
        SchemaError: If widths differ, or there are fewer than two fields.

    Example:
        >>> from amstf.schema import Field
        >>> schema = Schema((
        ...     Field("user", "sparse", vocabulary_size=9),
        ...     Field("ad", "sparse", vocabulary_size=9),
        ...     Field("click", "label")))
        >>> model = Pnn(schema, interaction={"products": "outer"})
        >>> model({"user": tf.constant([3, 8]), "ad": tf.constant([1, 1])}).shape
        TensorShape([2, 1])
    """

    @classmethod
    def make_id_embedding(
        cls, schema: Schema, labels: Sequence[str], embeddings_regularizer: Any
    ) -> keras.layers.Layer:
        """Makes the layer from a batch to vectors of fields, and numbers."""
        return FieldEmbedding(
            schema, embeddings_regularizer=embeddings_regularizer, name="id_embedding"
        )

    @classmethod
    def make_mlp(
        cls,
        hidden: Sequence[int],
        activation: str | None,
        dropout: float,
        id_embedding: keras.layers.Layer,
        products: str = INNER,
    ) -> keras.layers.Layer:
        """Makes the `PnnLayer`."""
        return PnnLayer(
            id_embedding.layout,
            hidden,
            activation or "prelu",
            dropout,
            products,
            name="interaction",
        )
