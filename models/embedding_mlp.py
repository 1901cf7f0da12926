"""Embedding&MLP, the click model that sees ids only, and what all click models share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import SchemaError
from amstf.schema import Schema
from amstf.signatures import ServedPart
from models.blocks import Mlp
from models.exact_evaluation import ExactEvaluation
from models.heads import LabelHeads, PredictionHead
from models.id_embedding import IdEmbedding
from models.keras_names import PACKAGE
from models.page_view import page_view_parts


@keras.utils.register_keras_serializable(package=PACKAGE)
class EmbeddingMlp(ExactEvaluation, keras.Model):
    """Click model of ID and dense fields: embeddings, concatenated, into an MLP.

    `p = sigmoid(w . mlp([e_1, ..., e_n]) + b)`, the base network of arXiv 1711.06505, section 3.
    Where the schema has them, the *ids* of the ad's image and of the behaviours' images are sparse
    fields of it like any other, so that what an image model gains over it comes from the pixels.

    Change a part by passing another. A subclass that sees more overrides `join`; one that is
    another base network (`LogisticRegression`, `Din`) overrides what makes the default parts.

    Args:
        schema: The fields of a batch.
        hidden: Widths of the MLP.
        dropout: Share of the outputs of each layer of the MLP to drop in training.
        activation: Activation of the MLP, see `models.blocks.Mlp`; that of the base network
            ("prelu") if None.
        embeddings_regularizer: See `models.IdEmbedding`.
        labels: Names of the labels to predict; all of the schema by default.
        base: Class whose parts are the defaults of the following; its own by default.
        interaction: Options of the base network's interaction of fields by name, which say more
            than `hidden` does about its default mlp; see there.
        id_embedding: Layer from a batch to [B, width]; an `IdEmbedding` of the schema by default.
        mlp: Layer from [B, width] to [B, any width] that replaces the one of `hidden`.
        head: Layer from the MLP's output to what `call` returns; by default a `PredictionHead`, or
            `LabelHeads` of several labels.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        SchemaError: If a label is none of the schema, or there is none.

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
        activation: str | None = None,
        embeddings_regularizer: Any = None,
        labels: Sequence[str] | None = None,
        base: type[EmbeddingMlp] | None = None,
        interaction: Mapping[str, Any] | None = None,
        id_embedding: keras.layers.Layer | None = None,
        mlp: keras.layers.Layer | None = None,
        head: keras.layers.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.schema = schema
        self.labels = checked_labels(schema, labels)
        base = base or type(self)
        self.id_embedding = id_embedding or base.make_id_embedding(
            schema, self.labels, embeddings_regularizer
        )
        self.mlp = mlp or base.make_mlp(
            hidden, activation, dropout, self.id_embedding, **(interaction or {})
        )
        self.head = head or base.make_head(self.labels)

    @classmethod
    def make_id_embedding(
        cls, schema: Schema, labels: Sequence[str], embeddings_regularizer: Any
    ) -> keras.layers.Layer:
        """Makes the default of `id_embedding`."""
        return IdEmbedding(
            schema, embeddings_regularizer=embeddings_regularizer, name="id_embedding"
        )

    @classmethod
    def make_mlp(
        cls,
        hidden: Sequence[int],
        activation: str | None,
        dropout: float,
        id_embedding: keras.layers.Layer,
    ) -> keras.layers.Layer:
        """Makes the default of `mlp`."""
        return Mlp(hidden, activation or "prelu", dropout, name="mlp")

    @classmethod
    def make_head(cls, labels: Sequence[str]) -> keras.layers.Layer:
        """Makes the default of `head`."""
        return LabelHeads(labels, name="head") if len(labels) > 1 else PredictionHead(name="head")

    def call(
        self, inputs: Mapping[str, tf.Tensor], training: bool | None = None
    ) -> tf.Tensor | dict[str, tf.Tensor]:
        """Predicts the click probability.

        Args:
            inputs: A batch, see docs/design/architecture.md; more fields may be there.
            training: Whether dropout and regularizers are on; Keras hands it on to all parts.

        Returns:
            [B, 1] float32 in (0, 1), or with several labels a dict of label -> [B, 1].
        """
        return self.head(self.mlp(self.join(inputs)))

    def join(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns what the MLP sees of a batch, [B, width]."""
        return self.id_embedding(inputs)

    def served_parts(self) -> dict[str, ServedPart]:
        """What an export offers beside the whole model: `score_ads`, one user and many ads."""
        return page_view_parts(self, self.schema)

    def get_config(self) -> dict[str, Any]:
        """Returns the schema and the configurations of the parts."""
        return {
            "name": self.name,
            "schema": self.schema.to_json(),
            "labels": list(self.labels),
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
        return cls(**{**parts_of_config(config, custom_objects), **parts})


def parts_of_config(
    config: Mapping[str, Any], custom_objects: dict[str, Any] | None
) -> dict[str, Any]:
    """Returns a model's configuration with the schema and the layers that it describes."""
    arguments = {
        key: keras.layers.deserialize(value, custom_objects)
        if isinstance(value, dict) and "class_name" in value
        else value
        for key, value in config.items()
    }
    return {**arguments, "schema": Schema.from_json(arguments["schema"])}


def checked_labels(schema: Schema, labels: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the labels to predict, all of the schema if None; raises SchemaError."""
    known = [field.name for field in schema.labels]
    if labels is None:
        return tuple(known)
    if isinstance(labels, str) or not labels or any(label not in known for label in labels):
        raise SchemaError(f"labels is {labels!r}; give some of the schema's, {', '.join(known)}")
    return tuple(labels)
