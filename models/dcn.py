"""DCN and DCN-V2: a cross network beside an MLP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.schema import Schema
from models.cross_mixture import CrossMixture
from models.cross_network import CrossNetwork, CrossNetworkV2
from models.embedding_mlp import EmbeddingMlp
from models.id_embedding import IdEmbedding
from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class CrossAndDeep(keras.layers.Layer):
    """A cross network and an MLP side by side on one input: `[cross(x), mlp(x)]`.

    Args:
        cross: Layer from [B, width] to [B, width].
        mlp: Layer from [B, width] to [B, any width].
        **kwargs: Arguments of `keras.layers.Layer`.

    Example:
        >>> from models.blocks import Mlp
        >>> CrossAndDeep(CrossNetwork(2), Mlp((4,)))(tf.zeros([2, 3])).shape
        TensorShape([2, 7])
    """

    def __init__(self, cross: keras.layers.Layer, mlp: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cross, self.mlp = cross, mlp

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Maps [B, width] to [B, width + MLP's width]."""
        return tf.concat([self.cross(inputs), self.mlp(inputs)], axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the configurations of both."""
        parts = {"cross": self.cross, "mlp": self.mlp}
        return {
            **super().get_config(),
            **{name: keras.layers.serialize(part) for name, part in parts.items()},
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CrossAndDeep:
        """Makes the layer that `get_config` described, without its weights."""
        parts = {name: keras.layers.deserialize(config[name]) for name in ("cross", "mlp")}
        return cls(**{**config, **parts})


@keras.utils.register_keras_serializable(package=PACKAGE)
class Dcn(EmbeddingMlp):
    """Deep & Cross Network: `p = sigmoid(w . [cross(x), mlp(x)] + b)`.

    x are the embeddings of all fields, which may differ in width, and numbers as they are (arXiv
    1708.05123, section 2, stacks them so); images too, with `Dicm(schema, images, base="dcn")`.
    `cross` is a `CrossNetwork`, whose layers have a vector each.

    Args:
        schema: The fields of a batch.
        **kwargs: Arguments of `EmbeddingMlp`. Options of interaction: `layers`, see `CrossNetwork`.

    Example:
        >>> from amstf.schema import Field, Schema
        >>> schema = Schema((Field("user", "sparse", vocabulary_size=9), Field("click", "label")))
        >>> Dcn(schema, interaction={"layers": 2})({"user": tf.constant([3, 8])}).shape
        TensorShape([2, 1])
    """

    @classmethod
    def make_id_embedding(
        cls, schema: Schema, labels: Sequence[str], embeddings_regularizer: Any
    ) -> keras.layers.Layer:
        """Makes the `IdEmbedding`, fused."""
        return IdEmbedding(
            schema, embeddings_regularizer=embeddings_regularizer, fused=True, name="id_embedding"
        )

    @classmethod
    def make_mlp(
        cls,
        hidden: Sequence[int],
        activation: str | None,
        dropout: float,
        id_embedding: keras.layers.Layer,
        **options: Any,
    ) -> keras.layers.Layer:
        """Makes the `CrossAndDeep`."""
        mlp = super().make_mlp(hidden, activation, dropout, id_embedding)
        return CrossAndDeep(cls.make_cross(**options), mlp, name="interaction")

    @classmethod
    def make_cross(cls, layers: int = 3) -> keras.layers.Layer:
        """Makes the cross network."""
        return CrossNetwork(layers, name="cross")


@keras.utils.register_keras_serializable(package=PACKAGE)
class DcnV2(Dcn):
    """Deep & Cross Network with matrices in its cross layers (arXiv 2008.13535, section 3).

    `Dcn` with a `CrossNetworkV2`, side by side with the MLP (the paper's parallel structure), or
    with `experts` a `CrossMixture`.

    Args:
        schema: The fields of a batch.
        **kwargs: Arguments of `EmbeddingMlp`. Options of interaction: `layers`; `rank`, 0 for full
            matrices; `experts`, which need a rank.

    Example:
        >>> from amstf.schema import Field, Schema
        >>> schema = Schema((Field("user", "sparse", vocabulary_size=9), Field("click", "label")))
        >>> DcnV2(schema, interaction={"rank": 4})({"user": tf.constant([3, 8])}).shape
        TensorShape([2, 1])
    """

    @classmethod
    def make_cross(cls, layers: int = 3, rank: int = 0, experts: int = 1) -> keras.layers.Layer:
        """Makes the cross network."""
        if experts > 1:
            return CrossMixture(layers, rank, experts, name="cross")
        return CrossNetworkV2(layers, rank, name="cross")
