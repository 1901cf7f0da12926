"""Embedding&MLP, the click model that sees ids only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.schema import Schema
from models.blocks import Mlp, PredictionHead
from models.id_embedding import IdEmbedding
from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class EmbeddingMlp(keras.Model):
    """Click model of ID and dense fields: embeddings, concatenated, into an MLP.

    `p = sigmoid(w . mlp([e_1, ..., e_n]) + b)`, the base network of arXiv 1711.06505, section 3.
    Where the schema has them, the *ids* of the ad's image and of the behaviours' images are sparse
    fields of it like any other, so that what an image model gains over it comes from the pixels.

    Change a part by passing another: `mlp=Mlp((), ...)` gives logistic regression on embeddings.
    A subclass that sees more overrides `join`.

    Args:
        schema: The fields of a batch.
        hidden: Widths of the MLP.
        dropout: Share of the outputs of each layer of the MLP to drop in training.
        activation: Activation of the MLP, see `models.blocks.Mlp`.
        embeddings_regularizer: See `models.IdEmbedding`.
        id_embedding: Layer from a batch to [B, width]; an `IdEmbedding` of the schema by default.
        mlp: Layer from [B, width] to [B, any width] that replaces the one of `hidden`.
        head: Layer from the MLP's output to [B, 1] float32; a `PredictionHead` by default.
        **kwargs: Arguments of `keras.Model`.

    Example:
        >>> from amstf.schema import Field
        >>> schema = Schema((Field("user", "sparse", vocabulary_size=9), Field("click", "label")))
        >>> EmbeddingMlp(schema)({"user": tf.constant([3, 8])}).shape
        TensorShape([2, 1])
    """

    def __init__(
        self,
        schema: Schema,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        *,
        activation: str = "prelu",
        embeddings_regularizer: Any = None,
        id_embedding: keras.layers.Layer | None = None,
        mlp: keras.layers.Layer | None = None,
        head: keras.layers.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.schema = schema
        self.id_embedding = id_embedding or IdEmbedding(
            schema, embeddings_regularizer=embeddings_regularizer, name="id_embedding"
        )
        self.mlp = mlp or Mlp(hidden, activation, dropout, name="mlp")
        self.head = head or PredictionHead(name="head")

    def call(self, inputs: Mapping[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Predicts the click probability.

        Args:
            inputs: A batch, see docs/design/architecture.md; more fields may be there.
            training: Whether dropout and regularizers are on; Keras hands it on to all parts.

        Returns:
            [B, 1] float32 in (0, 1).
        """
        return self.head(self.mlp(self.join(inputs)))

    def join(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns what the MLP sees of a batch, [B, width]."""
        return self.id_embedding(inputs)

    def get_config(self) -> dict[str, Any]:
        """Returns the schema and the configurations of the parts."""
        return {
            "name": self.name,
            "schema": self.schema.to_json(),
            "id_embedding": keras.layers.serialize(self.id_embedding),
            "mlp": keras.layers.serialize(self.mlp),
            "head": keras.layers.serialize(self.head),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None, **parts: Any
    ) -> EmbeddingMlp:
        """Makes the model that `get_config` described, without its weights.

        Args:
            config: What `get_config` returned.
            custom_objects: Classes of parts that are not registered with Keras.
            **parts: Arguments that the configuration lacks, or that replace those in it.
        """
        arguments = {
            key: keras.layers.deserialize(value, custom_objects)
            if isinstance(value, dict) and "class_name" in value
            else value
            for key, value in config.items()
        }
        arguments["schema"] = Schema.from_json(arguments["schema"])
        return cls(**{**arguments, **parts})
