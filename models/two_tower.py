"""The two-tower model, for the stage before ranking: user and ad meet in an inner product only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.data import input_specs
from amstf.errors import ConfigError, SchemaError
from amstf.schema import SIDES, Field, Schema
from amstf.signatures import CLICK_PROBABILITY, SCORE_ADS, ServedPart
from models.blocks import Mlp
from models.embedding_mlp import checked_labels
from models.exact_evaluation import ExactEvaluation
from models.id_embedding import IdEmbedding
from models.images import EmbeddingModels, FieldNames, ImageInputs
from models.keras_names import PACKAGE

USER_SIDES = ("user", "context")
"""Sides that the user's tower sees: what is known of a request before any ad is looked at."""

USER_EMBEDDING = "user_embedding"
AD_EMBEDDING = "ad_embedding"
AD_EMBEDDINGS = "ad_embeddings"


@keras.utils.register_keras_serializable(package=PACKAGE)
class InnerProduct(keras.layers.Layer):
    """Click probability of a user's and an ad's embedding: `sigmoid(u . a + b)`, in float32.

    Example:
        >>> match = InnerProduct()
        >>> match(tf.constant([[1.0, 2.0]]), tf.constant([[2.0, -1.0]])).numpy().tolist()
        [[0.5]]
    """

    def build(self, input_shape: Any) -> None:
        """Makes b."""
        self.width = int(tf.TensorShape(input_shape)[-1])
        self.bias = self.add_weight("bias", [1], initializer="zeros")
        super().build(input_shape)

    def call(self, users: tf.Tensor, ads: tf.Tensor) -> tf.Tensor:
        """Maps users [B, D] and their ads [B, D] to [B, 1]."""
        if users.shape[-1] != ads.shape[-1]:
            raise ConfigError(
                f"the user's tower gives {users.shape[-1]} floats and the ad's {ads.shape[-1]}; "
                "give both the same width"
            )
        logits = tf.reduce_sum(users * ads, axis=-1, keepdims=True) + self.bias
        return tf.sigmoid(tf.cast(logits, tf.float32))

    def all_pairs(self, users: tf.Tensor, ads: tf.Tensor) -> tf.Tensor:
        """Maps users [B, D] and ads [N, D] to [B, N], in one matrix product."""
        logits = tf.matmul(users, ads, transpose_b=True) + self.bias
        return tf.sigmoid(tf.cast(logits, tf.float32))


@keras.utils.register_keras_serializable(package=PACKAGE)
class TwoTower(ImageInputs, ExactEvaluation, keras.Model):
    """Pre-rank click model: two towers and an inner product (arXiv 1711.06505, section 6).

    `p = sigmoid(u . a + b)` with `u = tower_u([user ids, sum_t E(behaviour image t)])` and
    `a = tower_a([ad ids, E(ad image)])`, both of width D. Ad and user do not meet before, so that
    the ads are embedded beforehand, a user once per request, and `score_ads` ranks thousands of ads
    by one matrix product. Fields of the context are known with the user and go into his tower.

    ID tables that fields of both sides name are shared by the towers, and so is E. Of a schema with
    several labels it predicts the first, which is what the ads are ranked by before ranking; train
    it on data with `labels=model.labels`.

    Args:
        schema: The fields of a batch.
        images: The image store, or store name -> store. With ad_image and behaviour_images False
            none is needed: the baseline of ids only.
        embedding_model: E, see `models.Dicm`.
        aggregator: "sum" (default), "max", "concat", or a layer that keeps to `models.Aggregator`
            and asks by nothing of the ad.
        hidden: Widths of the layers of each tower; the last, which is linear, is D.
        dropout: Share of the outputs of each inner layer to drop in training.
        missing: What to do about ids that a store lacks: "error", "zeros" or "learn", see
            `amstf.layers.AmsEmbedding`.
        activation: Activation of the inner layers, see `models.blocks.Mlp`.
        embeddings_regularizer: See `models.IdEmbedding`.
        image_servers: See `models.Dicm`.
        ad_image: See `models.Dicm`.
        behaviour_images: See `models.Dicm`.
        image_embedding: See `models.Dicm`.
        id_embedding: `IdEmbedding` (or a subclass) of all sides that replaces the default.
        user_tower: Layer from [B, width] to [B, D] that replaces the default.
        ad_tower: The same for the ad.
        **kwargs: Arguments of `keras.Model`.

    Raises:
        SchemaError: If a tower would have no input.
        ConfigError: If a store is missing, or arguments do not go together.

    Example:
        >>> schema = Schema((
        ...     Field("user", "sparse", side="user", vocabulary_size=9),
        ...     Field("item", "sparse", side="ad", vocabulary_size=9),
        ...     Field("click", "label")))
        >>> model = TwoTower(schema, hidden=(8, 4))
        >>> model({"user": tf.constant([3, 8]), "item": tf.constant([0, 1])}).shape
        TensorShape([2, 1])
        >>> user = model.user_embedding({"user": tf.constant([3])})
        >>> ads = model.ad_embedding({"item": tf.range(9)})
        >>> model.score_ads(user, ads).shape
        TensorShape([1, 9])
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
        activation: str = "prelu",
        embeddings_regularizer: Any = None,
        image_servers: Mapping[str, Sequence[int]] | None = None,
        ad_image: FieldNames = None,
        behaviour_images: FieldNames = None,
        image_embedding: keras.layers.Layer | Mapping[str, keras.layers.Layer] | None = None,
        id_embedding: keras.layers.Layer | None = None,
        user_tower: keras.layers.Layer | None = None,
        ad_tower: keras.layers.Layer | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.schema = schema
        self.labels = checked_labels(schema, None)[:1]
        self.id_embedding = id_embedding or IdEmbedding(
            schema, embeddings_regularizer=embeddings_regularizer, name="id_embedding"
        )
        self._set_images(
            images,
            embedding_model,
            missing,
            image_servers,
            ad_image,
            behaviour_images,
            image_embedding,
        )
        self._set_aggregators(aggregator)
        for made in self.aggregators.values():
            if getattr(made, "needs_query", False) or getattr(made, "needs_ad_ids", False):
                raise ConfigError(
                    f"aggregator {type(made).__name__} asks by the ad, which a user's "
                    "tower does not see; use 'sum', 'mean', 'max' or 'concat'"
                )
        self.user_tower = user_tower or _tower(hidden, activation, dropout, "user_tower")
        self.ad_tower = ad_tower or _tower(hidden, activation, dropout, "ad_tower")
        self.match = InnerProduct(name="match")
        for whose, fields in (("user", self._user_fields), ("ad", self._ad_fields)):
            if not fields:
                raise SchemaError(
                    f"the {whose}'s tower has no input: the schema has no field of that side, or "
                    "its image is switched off"
                )

    @property
    def _user_fields(self) -> list[Field]:
        ids = [field for field in self.id_embedding.fields if field.side in USER_SIDES]
        return [*ids, *self.behaviour_images]

    @property
    def _ad_fields(self) -> list[Field]:
        ids = [field for field in self.id_embedding.fields if field.side not in USER_SIDES]
        return [*ids, *self.ad_images]

    def call(self, inputs: Mapping[str, tf.Tensor], training: bool | None = None) -> tf.Tensor:
        """Predicts the click probability.

        Args:
            inputs: A batch, see docs/design/architecture.md; more fields may be there.
            training: Whether dropout and regularizers are on; Keras hands it on to all parts.

        Returns:
            [B, 1] float32 in (0, 1).
        """
        # Both sides in one call, so that tables and images that they share are asked once.
        ids = self._embed_ids(inputs, SIDES)
        images = self._embed_images(inputs, (*self.ad_images, *self.behaviour_images))
        return self.match(self._user(inputs, ids, images), self._ad(ids, images))

    def user_embedding(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Runs the user's tower: fields of user and context -> [B, D]."""
        images = self._embed_images(inputs, self.behaviour_images)
        return self._user(inputs, self._embed_ids(inputs, USER_SIDES), images)

    def ad_embedding(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Runs the ad's tower: fields of the ad -> [B, D]."""
        images = self._embed_images(inputs, self.ad_images)
        return self._ad(self._embed_ids(inputs, ("ad",)), images)

    def score_ads(self, users: tf.Tensor, ads: tf.Tensor) -> tf.Tensor:
        """Predicts the click probability of every user for every ad, by one matrix product.

        Args:
            users: What `user_embedding` gave, [B, D].
            ads: What `ad_embedding` gave, [N, D].

        Returns:
            [B, N] float32.
        """
        return self.match.all_pairs(users, ads)

    def _embed_ids(
        self, inputs: Mapping[str, tf.Tensor], sides: Sequence[str]
    ) -> dict[str, tf.Tensor]:
        return self.id_embedding(inputs, per_field=True, sides=sides)

    def _user(
        self,
        inputs: Mapping[str, tf.Tensor],
        ids: Mapping[str, tf.Tensor],
        images: Mapping[str, Any],
    ) -> tf.Tensor:
        parts = _of_sides(self.id_embedding, ids, USER_SIDES)
        parts += [self._aggregate(f, inputs, *images[f.name]) for f in self.behaviour_images]
        return self.user_tower(tf.concat(parts, axis=-1))

    def _ad(self, ids: Mapping[str, tf.Tensor], images: Mapping[str, Any]) -> tf.Tensor:
        parts = _of_sides(self.id_embedding, ids, ("ad",))
        parts += [images[field.name][0] for field in self.ad_images]
        return self.ad_tower(tf.concat(parts, axis=-1))

    def served_parts(self) -> dict[str, ServedPart]:
        """What an export offers beside the whole model: both towers, and scores of their outputs.

        Returns:
            Name of the signature -> part. `user_embedding` and `ad_embedding` take the fields of
            their side by name, `score_ads` takes `user_embedding` [B, D] and `ad_embeddings` [N, D]
            and gives `click_probability` [B, N].
        """
        users, ads = (
            ServedPart(
                lambda inputs, name=name, run=run: {name: run(inputs)},
                _specs_of(self.schema, fields),
            )
            for name, run, fields in (
                (USER_EMBEDDING, self.user_embedding, self._user_fields),
                (AD_EMBEDDING, self.ad_embedding, self._ad_fields),
            )
        )
        scores = ServedPart(
            lambda inputs: {
                CLICK_PROBABILITY: self.score_ads(inputs[USER_EMBEDDING], inputs[AD_EMBEDDINGS])
            },
            {
                name: tf.TensorSpec([None, self.match.width])
                for name in (USER_EMBEDDING, AD_EMBEDDINGS)
            },
        )
        return {USER_EMBEDDING: users, AD_EMBEDDING: ads, SCORE_ADS: scores}

    def get_config(self) -> dict[str, Any]:
        """Describes the model, its image stores by their paths."""
        return {
            "name": self.name,
            "schema": self.schema.to_json(),
            **{
                part: keras.layers.serialize(getattr(self, part))
                for part in ("id_embedding", "user_tower", "ad_tower")
            },
            **self._image_config(),
        }


def _tower(widths: Sequence[int], activation: str, dropout: float, name: str) -> keras.layers.Layer:
    inner = Mlp(widths[:-1], activation, dropout, name="mlp")
    # Linear: of numbers that are never negative (PReLU begins as ReLU) no pair could disagree.
    return keras.Sequential([inner, keras.layers.Dense(widths[-1], name="embedding")], name=name)


def _of_sides(
    layer: IdEmbedding, embedded: Mapping[str, tf.Tensor], sides: Iterable[str]
) -> list[tf.Tensor]:
    return [embedded[field.name] for field in layer.fields if field.side in sides]


def _specs_of(schema: Schema, fields: Iterable[Field]) -> dict[str, tf.TensorSpec]:
    keys = {key for field in fields for key in (field.name, field.weight_name)}
    return {key: spec for key, spec in input_specs(schema).items() if key in keys}
