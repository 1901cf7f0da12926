"""DICM, the click model that sees the ad's image and the images of a user's behaviours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError, SchemaError
from amstf.layers import AmsEmbedding
from amstf.schema import IMAGE, NO_ID, Field, Schema
from amstf.store import ImageStore
from models.aggregators import make_aggregator
from models.blocks import image_tower
from models.embedding_mlp import EmbeddingMlp
from models.id_embedding import one_per_sample, value_of
from models.keras_names import PACKAGE


@keras.utils.register_keras_serializable(package=PACKAGE)
class Dicm(EmbeddingMlp):
    """Deep Image CTR Model: Embedding&MLP plus embeddings of images (arXiv 1711.06505, section 3).

    `p = sigmoid(w . mlp([ids, E(ad image), aggregate(E(behaviour images), by E(ad image))]) + b)`

    E is trained with the rest. The ad's image and the behaviours' images go through one E and, if
    they are in one store, in one call per step, so that an image which both ask for is computed
    once. Either may be absent from the schema or switched off.

    Args:
        schema: The fields of a batch, image fields among them.
        images: The image store, or store name -> store; see `Field.store_name`.
        embedding_model: E, from [U, F] to [U, D]; `image_tower()` by default. A dict of store
            name -> model gives each store its own.
        aggregator: "sum" (default), "attentive", or a layer that keeps to `models.Aggregator`.
        hidden: Widths of the MLP.
        dropout: Share of the outputs of each layer of the MLP to drop in training.
        missing: What to do about ids that a store lacks: "error" or "zeros".
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
        image_servers: Mapping[str, Sequence[int]] | None = None,
        ad_image: str | Literal[False] | None = None,
        behaviour_images: str | Literal[False] | None = None,
        image_embedding: keras.layers.Layer | Mapping[str, keras.layers.Layer] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(schema, hidden, dropout, **kwargs)
        self.ad_image = _choose(schema, ad_image, side="ad", is_list=False)
        self.behaviour_images = _choose(schema, behaviour_images, side="user", is_list=True)
        fields = [f for f in (self.ad_image, self.behaviour_images) if f is not None]
        if not fields:
            raise SchemaError(
                "Dicm has no image: the schema has neither an image field of side 'ad' nor an "
                "image list of side 'user', or both are switched off; use EmbeddingMlp for ids only"
            )
        stores = list(dict.fromkeys(field.store_name for field in fields))
        if image_embedding is None:
            image_embedding = _ams_embeddings(
                stores, images, embedding_model, missing, image_servers or {}
            )
        self.image_embeddings = _by_store("image_embedding", image_embedding, stores)
        self.aggregator = make_aggregator(aggregator) if self.behaviour_images else None
        if self.ad_image is None and getattr(self.aggregator, "needs_query", False):
            raise ConfigError(
                f"aggregator {type(self.aggregator).__name__} asks by the ad's image and this "
                "model has none; use 'sum', or give ad_image"
            )

    def join(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns ID embeddings, ad image and aggregated behaviours side by side, [B, width]."""
        embedded = self.id_embedding(inputs, per_field=True)
        parts = [self.id_embedding.join(embedded)]
        ids = {
            field.name: _image_ids(field, inputs)
            for field in (self.ad_image, self.behaviour_images)
            if field is not None
        }
        images = self._embed_images(ids)
        query = None
        if self.ad_image is not None:
            query = images[self.ad_image.name]
            parts.append(query)
        if self.behaviour_images is not None:
            name = self.behaviour_images.name
            has_ad_ids = any(field.side == "ad" for field in self.id_embedding.fields)
            ad_ids = self.id_embedding.join(embedded, side="ad") if has_ad_ids else None
            parts.append(self.aggregator(images[name], ids[name] >= 0, query, ad_ids))
        return tf.concat(parts, axis=-1)

    def _embed_images(self, ids: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Embeds ids of any shape, per field, in one call per store."""
        embedded: dict[str, tf.Tensor] = {}
        for store, layer in self.image_embeddings.items():
            names = [name for name in ids if self.schema[name].store_name == store]
            flat = layer(tf.concat([tf.reshape(ids[name], [-1]) for name in names], axis=0))
            sizes = [tf.size(ids[name]) for name in names]
            for name, part in zip(names, tf.split(flat, sizes, num=len(names)), strict=True):
                shape = tf.concat([tf.shape(ids[name]), [flat.shape[-1]]], axis=0)
                embedded[name] = tf.reshape(part, shape)
        return embedded

    def get_config(self) -> dict[str, Any]:
        """Describes the model, its image stores by their paths."""
        config = {
            **super().get_config(),
            "ad_image": self.ad_image.name if self.ad_image else False,
            "behaviour_images": self.behaviour_images.name if self.behaviour_images else False,
            "aggregator": self.aggregator and keras.layers.serialize(self.aggregator),
        }
        layers = dict(self.image_embeddings)
        if all(isinstance(layer, AmsEmbedding) for layer in layers.values()):
            # Not as layers, since these would come back with an E each, even if they share one.
            models = {store: layer.embedding_model for store, layer in layers.items()}
            shared = next(iter(models.values()))
            one = all(model is shared for model in models.values())
            config["images"] = {store: layer.store.paths for store, layer in layers.items()}
            config["embedding_model"] = _serialized(shared if one else models)
            config["missing"] = next(iter(layers.values())).missing
        else:
            config["image_embedding"] = _serialized(layers)
        return config

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None, **parts: Any
    ) -> Dicm:
        """Makes the model that `get_config` described, without its weights; opens its stores.

        Args:
            config: What `get_config` returned.
            custom_objects: Classes of parts that are not registered with Keras.
            **parts: Arguments that replace those of the configuration, as images elsewhere.
        """
        config = {key: value for key, value in config.items() if key not in parts}
        if "image_embedding" in parts:
            config.pop("images", None)
        elif "images" in config:
            parts["images"] = {
                store: ImageStore.open(paths) for store, paths in config.pop("images").items()
            }
        for key in ("embedding_model", "image_embedding"):
            value = config.get(key)
            if isinstance(value, dict) and "class_name" not in value:
                config[key] = {
                    store: keras.layers.deserialize(part, custom_objects)
                    for store, part in value.items()
                }
        return super().from_config(config, custom_objects, **parts)


def _serialized(layers: keras.layers.Layer | Mapping[str, keras.layers.Layer]) -> dict[str, Any]:
    if isinstance(layers, Mapping):
        return {store: keras.layers.serialize(layer) for store, layer in layers.items()}
    return keras.layers.serialize(layers)


def _choose(schema: Schema, name: str | bool | None, side: str, is_list: bool) -> Field | None:
    """Returns the image field of that name, or the only one that fits, or none."""
    argument = "behaviour_images" if is_list else "ad_image"
    if name is False:
        return None
    fitting = [f for f in schema.of_kind(IMAGE) if f.is_list == is_list]
    if name is None:
        fitting = [field for field in fitting if field.side == side]
        if len(fitting) > 1:
            names = ", ".join(field.name for field in fitting)
            raise SchemaError(f"the schema has several fields for {argument}: {names}; name one")
        return fitting[0] if fitting else None
    for field in fitting:
        if field.name == name:
            return field
    kind = "image list" if is_list else "single image"
    names = ", ".join(field.name for field in fitting) or "none"
    raise SchemaError(f"{argument} is {name!r}, which is no {kind} field; the schema has: {names}")


def _ams_embeddings(
    stores: list[str],
    images: Any,
    embedding_model: Any,
    missing: str,
    servers: Mapping[str, Sequence[int]],
) -> dict[str, keras.layers.Layer]:
    if images is None:
        raise ConfigError("give images, an image store, or image_embedding in its place")
    images = _by_store("images", images, stores)
    if embedding_model is None:
        # One E for all stores: images of one kind mean the same wherever they are kept.
        embedding_model = image_tower()
    models = _by_store("embedding_model", embedding_model, stores)
    unknown = [store for store in servers if store not in stores]
    if unknown:
        raise ConfigError(
            f"image_servers names {', '.join(unknown)}; the schema's image fields refer to "
            f"{', '.join(stores)}"
        )
    return {
        store: AmsEmbedding(
            images[store],
            models[store],
            missing=missing,
            servers=servers.get(store),
            name=f"images_{store}",
        )
        for store in stores
    }


def _by_store(argument: str, value: Any, stores: list[str]) -> dict[str, Any]:
    """Returns store name -> value, in the order of stores; one value may stand for all."""
    if not isinstance(value, Mapping):
        if argument == "images" and len(stores) > 1:
            raise ConfigError(
                f"images is one store and the schema's fields refer to {', '.join(stores)}; "
                "give a dict of store name -> store"
            )
        return dict.fromkeys(stores, value)
    lacking = [store for store in stores if store not in value]
    if lacking:
        raise ConfigError(
            f"{argument} lacks {', '.join(lacking)}, to which the schema's image fields refer; "
            f"it has {', '.join(map(str, value)) or 'nothing'}"
        )
    return {store: value[store] for store in stores}


def _image_ids(field: Field, inputs: Mapping[str, Any]) -> tf.Tensor:
    """Returns ids [B], or [B, T] padded with -1, int64."""
    ids = value_of(field.name, inputs)
    if not field.is_list:
        return tf.cast(one_per_sample(field, ids), tf.int64)
    if isinstance(ids, tf.RaggedTensor):
        return tf.cast(ids.to_tensor(tf.constant(NO_ID, ids.dtype)), tf.int64)
    if ids.shape.rank != 2:
        raise SchemaError(f"field {field.name!r} has shape {ids.shape}; wanted [B, T]")
    return tf.cast(ids, tf.int64)
