"""DICM, the click model that sees the ad's image and the images of a user's behaviours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError, SchemaError
from amstf.schema import Schema
from models.dcn import Dcn, DcnV2
from models.deepfm import DeepFm
from models.din import Din
from models.embedding_mlp import EmbeddingMlp
from models.fibinet import FiBiNet
from models.images import EmbeddingModels, FieldNames, ImageInputs
from models.keras_names import PACKAGE
from models.logistic_regression import LogisticRegression
from models.pnn import Pnn
from models.sample_dropout import SampleDropout

BASE_NETWORKS: dict[str, type[EmbeddingMlp]] = {
    "lr": LogisticRegression,
    "mlp": EmbeddingMlp,
    "din": Din,
    "deepfm": DeepFm,
    "dcn": Dcn,
    "dcn_v2": DcnV2,
    "pnn": Pnn,
    "fibinet": FiBiNet,
}
"""Networks of ids that `Dicm` adds images to, by name."""


@keras.utils.register_keras_serializable(package=PACKAGE)
class Dicm(ImageInputs, EmbeddingMlp):
    """Deep Image CTR Model: a base network plus embeddings of images (arXiv 1711.06505, section 3).

    `p = sigmoid(w . mlp([ids, E(ad image), aggregate(E(behaviour images), by E(ad image))]) + b)`

    E is trained with the rest. The ad's image and the behaviours' images go through one E and, if
    they are in one store, in one call per step, so that an image which both ask for is computed
    once. Either may be absent from the schema or switched off.

    An "image" is whatever a feature store holds a vector of: pictures, texts, videos, several at
    once. With `v` a modality, that is a store with an E_v of its own, the MLP sees
    `[ids, E_v(ad's v) for each v, aggregate(E_v(behaviours' v), by E_v(ad's v)) for each v]`.

    Args:
        schema: The fields of a batch, image fields among them.
        images: The image store, or store name -> store; see `Field.store_name`.
        embedding_model: E, from [U, F] to [U, D]; one model is shared by all stores, a dict of
            store name -> model gives each its own. Or a function that makes them and takes the
            `name` to give, by default `image_tower`; for other widths for example
            `functools.partial(image_tower, (64, 12))`. It is asked for one E for each store; but
            for one in all where the ad's only image and the behaviours' only images are in two
            stores of one width.
        aggregator: One of `models.AGGREGATORS` ("sum" by default), or a layer that keeps to
            `models.Aggregator`, or a dict of behaviours' field name -> either. Each list of images
            has one of its own, and is asked by the ad's image of the same store.
        hidden: Widths of the MLP.
        dropout: Share of the outputs of each layer of the MLP to drop in training.
        missing: What to do about ids that a store lacks: "error", "zeros" or "learn", see
            `amstf.layers.AmsEmbedding`.
        base: The network that images are added to: one of `BASE_NETWORKS`, "mlp" (Embedding&MLP) by
            default, or a subclass of `EmbeddingMlp`. Its parts are the defaults of id_embedding,
            mlp and head.
        image_servers: On a cluster, store name -> indices of the parameter servers that hold the
            store, so that fields may have model servers of their own; those of the strategy's
            configuration by default.
        ad_image: Name of the ad's image field, or several; by default all image fields of side
            "ad" that are no lists; False for none.
        behaviour_images: Name of the behaviours' image field, or several; by default all lists of
            images of side "user"; False for none.
        image_embedding: Layer from int64 ids of any shape, -1 for none, to [..., D], or store name
            -> layer. Replaces the `AmsEmbedding` that is made of images, embedding_model, missing;
            for example by a table of embeddings computed beforehand, as serving does.
        image_products: Whether the network also sees the elementwise product of the ad's image and
            the aggregated behaviours. That they are alike is a product, which an MLP has to learn
            from very many samples. Not in the paper; see docs/design/models.md.
        unit_images: Whether the network sees the ad's images and the aggregated behaviours at
            length 1, and products times sqrt(D), so that all are of one size. How much a user did
            and how strong an image is are left out, what it shows stays. Not in the paper; see
            docs/design/models.md.
        image_dropout: Probability that in training a sample's image vectors, the ad's and the
            aggregated behaviours', are made zero together (`models.SampleDropout`).
        **kwargs: Further arguments of `EmbeddingMlp`.

    Raises:
        SchemaError: If the schema has no image field, or none of a name that is given.
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
        embedding_model: EmbeddingModels = None,
        aggregator: str | keras.layers.Layer | Mapping[str, Any] | None = None,
        hidden: Sequence[int] = (128, 64),
        dropout: float = 0.0,
        missing: str = "error",
        *,
        base: str | type[EmbeddingMlp] = "mlp",
        image_servers: Mapping[str, Sequence[int]] | None = None,
        ad_image: FieldNames = None,
        behaviour_images: FieldNames = None,
        image_embedding: keras.layers.Layer | Mapping[str, keras.layers.Layer] | None = None,
        image_dropout: float = 0.0,
        image_products: bool = False,
        unit_images: bool = False,
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
        self.image_products = image_products
        if image_products and not (self.ad_images and self.behaviour_images):
            raise ConfigError(
                "image_products multiplies the ad's image with those of behaviours, and this model "
                "lacks one of them; leave it out"
            )
        self.unit_images = unit_images
        self.image_dropout = None
        if image_dropout:
            self.image_dropout = SampleDropout(image_dropout, name="image_dropout")
        self._set_aggregators(aggregator)
        for made in self.aggregators.values():
            self._check_aggregator(made)

    def _check_aggregator(self, aggregator: keras.layers.Layer) -> None:
        kind = type(aggregator).__name__
        if not self.ad_images and getattr(aggregator, "needs_query", False):
            raise ConfigError(
                f"aggregator {kind} asks by the ad's image and this model has none; use 'sum', or "
                "give ad_image"
            )
        if not self._has_ad_ids and getattr(aggregator, "needs_ad_ids", False):
            raise ConfigError(
                f"aggregator {kind} asks by the ad's ids and the schema has none; use 'attentive', "
                "or a schema with a sparse field of side 'ad'"
            )

    @property
    def _has_ad_ids(self) -> bool:
        return any(field.side == "ad" for field in self.id_embedding.fields)

    def join(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns ID embeddings, ad images and aggregated behaviours side by side, [B, width]."""
        embedded = self.id_embedding(inputs, per_field=True)
        images = self._embed_images(inputs, (*self.ad_images, *self.behaviour_images))
        ads = {field.name: self._seen(images[field.name][0]) for field in self.ad_images}
        parts = list(ads.values())
        ad_ids = self.id_embedding.join(embedded, side="ad") if self._has_ad_ids else None
        for field in self.behaviour_images:
            behaviours, mask = images[field.name]
            asks = self._query_of(field)
            query = images[asks.name][0] if asks else None
            pooled = self._aggregate(field, inputs, behaviours, mask, query, ad_ids)
            width = behaviours.shape[-1]
            parts.append(self._seen(pooled, width))
            if self.image_products:
                products = _products(ads[asks.name], parts[-1])
                parts.append(products * math.sqrt(width) if self.unit_images else products)
        if self.image_dropout is not None:
            parts = self.image_dropout(parts)
        return tf.concat([self.id_embedding.join(embedded), *parts], axis=-1)

    def _seen(self, vectors: tf.Tensor, width: int | None = None) -> tf.Tensor:
        """Returns what the network sees of vectors [B, n D], each D floats of which are one."""
        if not self.unit_images:
            return vectors
        width = width or vectors.shape[-1]
        if vectors.shape[-1] % width:
            raise ConfigError(
                f"unit_images: the behaviours' images have {width} floats and their aggregate "
                f"{vectors.shape[-1]}, no multiple of it; use another aggregator, or leave it out"
            )
        each = tf.reshape(vectors, [tf.shape(vectors)[0], -1, width])
        # Of nearly nothing a length of 1 would be noise, and its gradient without bound.
        unit = tf.math.l2_normalize(each, axis=-1, epsilon=1e-6)
        return tf.ensure_shape(tf.reshape(unit, tf.shape(vectors)), vectors.shape)

    def get_config(self) -> dict[str, Any]:
        """Describes the model, its image stores by their paths."""
        return {
            **super().get_config(),
            **self._image_config(),
            "image_products": self.image_products,
            "unit_images": self.unit_images,
            "image_dropout": self.image_dropout.rate if self.image_dropout else 0.0,
        }


def _products(query: tf.Tensor, pooled: tf.Tensor) -> tf.Tensor:
    """Multiplies the ad's embedding [B, D] with each D floats of the behaviours' [B, n D]."""
    width = query.shape[-1]
    if pooled.shape[-1] % width:
        raise ConfigError(
            f"image_products: the ad's image has {width} floats and the aggregated behaviours "
            f"{pooled.shape[-1]}, no multiple of it; give the two stores an E of one width"
        )
    return tf.tile(query, [1, pooled.shape[-1] // width]) * pooled


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
