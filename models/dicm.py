"""DICM, the click model that sees the ad's image and the images of a user's behaviours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError, SchemaError
from amstf.schema import Schema
from models.aggregators import make_aggregator
from models.din import Din
from models.embedding_mlp import EmbeddingMlp
from models.images import ImageInputs
from models.keras_names import PACKAGE
from models.logistic_regression import LogisticRegression

BASE_NETWORKS: dict[str, type[EmbeddingMlp]] = {
    "lr": LogisticRegression,
    "mlp": EmbeddingMlp,
    "din": Din,
}
"""Networks of ids that `Dicm` adds images to, by name."""


@keras.utils.register_keras_serializable(package=PACKAGE)
class Dicm(ImageInputs, EmbeddingMlp):
    """Deep Image CTR Model: a base network plus embeddings of images (arXiv 1711.06505, section 3).

    `p = sigmoid(w . mlp([ids, E(ad image), aggregate(E(behaviour images), by E(ad image))]) + b)`

    E is trained with the rest. The ad's image and the behaviours' images go through one E and, if
    they are in one store, in one call per step, so that an image which both ask for is computed
    once. Either may be absent from the schema or switched off.

    Args:
        schema: The fields of a batch, image fields among them.
        images: The image store, or store name -> store; see `Field.store_name`.
        embedding_model: E, from [U, F] to [U, D]; `image_tower()` by default. A dict of store
            name -> model gives each store its own.
        aggregator: One of `models.AGGREGATORS` ("sum" by default), or a layer that keeps to
            `models.Aggregator`.
        hidden: Widths of the MLP.
        dropout: Share of the outputs of each layer of the MLP to drop in training.
        missing: What to do about ids that a store lacks: "error" or "zeros".
        base: The network that images are added to: "mlp" (Embedding&MLP), "lr" or "din", or a
            subclass of `EmbeddingMlp`. Its parts are the defaults of id_embedding, mlp and head.
        image_servers: On a cluster, store name -> indices of the parameter servers that hold the
            store, so that fields may have model servers of their own; those of the strategy's
            configuration by default.
        ad_image: Name of the ad's image field; by default the only image field of side "ad" that is
            no list, if there is one; False for none.
        behaviour_images: Name of the behaviours' image field; by default the only list of images of
            side "user", if there is one; False for none.
        image_embedding: Layer from int64 ids of any shape, -1 for none, to [..., D], or store name
            -> layer. Replaces the `AmsEmbedding` that is made of images, embedding_model, missing;
            for example by a table of embeddings computed beforehand, as serving does.
        **kwargs: Further arguments of `EmbeddingMlp`.

    Raises:
        SchemaError: If the schema has no image field, or several where one is wanted.
        ConfigError: If a store is missing, or arguments do not go together.

    Example:
        >>> from amstf.schema import Field
        >>> schema = Schema((
        ...     Field("ad", "sparse", side="ad", vocabulary_size=3),
        ...     Field("picture", "image", side="ad"),
        ...     Field("click", "label")))
        >>> table = keras.Sequential([keras.layers.Lambda(lambda ids: tf.one_hot(ids, 4))])
        >>> model = Dicm(schema, image_embedding=table)
        >>> model({"ad": tf.constant([0, 2]), "picture": tf.constant([1, -1])}).shape
        TensorShape([2, 1])
    """

    def __init__(
        self,
        schema: Schema,
        images: Any = None,
        embedding_model: keras.Model | Mapping[str, keras.Model] | None = None,
        aggregator: str | keras.layers.Layer | None = None,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        missing: str = "error",
        *,
        base: str | type[EmbeddingMlp] = "mlp",
        image_servers: Mapping[str, Sequence[int]] | None = None,
        ad_image: str | Literal[False] | None = None,
        behaviour_images: str | Literal[False] | None = None,
        image_embedding: keras.layers.Layer | Mapping[str, keras.layers.Layer] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(schema, hidden, dropout, base=_base_network(base), **kwargs)
        self._set_images(
            images,
            embedding_model,
            missing,
            image_servers,
            ad_image,
            behaviour_images,
            image_embedding,
        )
        if not self.image_embeddings:
            raise SchemaError(
                "Dicm has no image: the schema has neither an image field of side 'ad' nor an "
                "image list of side 'user', or both are switched off; use EmbeddingMlp for ids only"
            )
        self.aggregator = None
        if self.behaviour_images:
            self.aggregator = make_aggregator(aggregator, self.behaviour_images.max_length)
        self._check_aggregator()

    def _check_aggregator(self) -> None:
        kind = type(self.aggregator).__name__
        if self.ad_image is None and getattr(self.aggregator, "needs_query", False):
            raise ConfigError(
                f"aggregator {kind} asks by the ad's image and this model has none; use 'sum', or "
                "give ad_image"
            )
        if not self._has_ad_ids and getattr(self.aggregator, "needs_ad_ids", False):
            raise ConfigError(
                f"aggregator {kind} asks by the ad's ids and the schema has none; use 'attentive', "
                "or a schema with a sparse field of side 'ad'"
            )

    @property
    def _has_ad_ids(self) -> bool:
        return any(field.side == "ad" for field in self.id_embedding.fields)

    def join(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns ID embeddings, ad image and aggregated behaviours side by side, [B, width]."""
        embedded = self.id_embedding(inputs, per_field=True)
        parts = [self.id_embedding.join(embedded)]
        images = self._embed_images(inputs, (self.ad_image, self.behaviour_images))
        query = None
        if self.ad_image is not None:
            query, _ = images[self.ad_image.name]
            parts.append(query)
        if self.behaviour_images is not None:
            behaviours, mask = images[self.behaviour_images.name]
            ad_ids = self.id_embedding.join(embedded, side="ad") if self._has_ad_ids else None
            parts.append(self._aggregate(inputs, behaviours, mask, query, ad_ids))
        return tf.concat(parts, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Describes the model, its image stores by their paths."""
        return {
            **super().get_config(),
            **self._image_config(),
            "aggregator": self.aggregator and keras.layers.serialize(self.aggregator),
        }


def _base_network(base: str | type[EmbeddingMlp]) -> type[EmbeddingMlp]:
    if isinstance(base, type) and issubclass(base, EmbeddingMlp):
        return base
    try:
        return BASE_NETWORKS[base]
    except (KeyError, TypeError):
        names = ", ".join(map(repr, BASE_NETWORKS))
        raise ConfigError(
            f"base is {base!r}; use one of {names}, or a subclass of EmbeddingMlp"
        ) from None
