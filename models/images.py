"""The images of a model: which fields hold them, and one call per store that embeds them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError, SchemaError
from amstf.layers import AmsEmbedding
from amstf.schema import IMAGE, NO_ID, Field, Schema
from amstf.store import ImageStore
from models.blocks import image_tower
from models.embedding_mlp import parts_of_config
from models.id_embedding import groups_of, one_per_sample, per_sample, value_of


class ImageInputs:
    """What models with images share, to be inherited beside `keras.Model`.

    Attributes:
        ad_image: Field of the ad's image, or None.
        behaviour_images: Field of the behaviours' images, or None.
        aggregator: What makes one vector of their embeddings, or None.
        image_embeddings: Store name -> layer from ids of any shape to [..., D]; export reads it.
    """

    schema: Schema
    ad_image: Field | None
    behaviour_images: Field | None
    aggregator: keras.layers.Layer | None
    image_embeddings: dict[str, keras.layers.Layer]

    def _set_images(
        self,
        images: Any,
        embedding_model: keras.Model | Mapping[str, keras.Model] | None,
        missing: str,
        image_servers: Mapping[str, Sequence[int]] | None,
        ad_image: str | Literal[False] | None,
        behaviour_images: str | Literal[False] | None,
        image_embedding: keras.layers.Layer | Mapping[str, keras.layers.Layer] | None,
    ) -> None:
        """Sets the attributes; `models.Dicm` says what the arguments are.

        Raises:
            SchemaError: If a field that is named is no image field, or several could be meant.
            ConfigError: If a store is missing, or arguments do not go together.
        """
        self.ad_image = _choose(self.schema, ad_image, side="ad", is_list=False)
        self.behaviour_images = _choose(self.schema, behaviour_images, side="user", is_list=True)
        fields = [f for f in (self.ad_image, self.behaviour_images) if f is not None]
        stores = list(dict.fromkeys(field.store_name for field in fields))
        if stores and image_embedding is None:
            image_embedding = _ams_embeddings(
                stores, images, embedding_model, missing, image_servers or {}
            )
        self.image_embeddings = _by_store("image_embedding", image_embedding or {}, stores)

    def _embed_images(
        self, inputs: Mapping[str, Any], fields: Iterable[Field | None]
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Embeds the images of some fields, in one call per store.

        Args:
            inputs: A batch that has these fields.
            fields: Image fields; None stands for a field that the model does without.

        Returns:
            Field name -> embeddings [B, D] or [B, T, D], and which of them are images, bool [B] or
            [B, T]. In a batch of groups, fields of the user have a row for each group.
        """
        ids = {field.name: _image_ids(field, inputs) for field in fields if field is not None}
        embedded: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}
        for store, layer in self.image_embeddings.items():
            names = [name for name in ids if self.schema[name].store_name == store]
            if not names:
                continue
            flat = layer(tf.concat([tf.reshape(ids[name], [-1]) for name in names], axis=0))
            sizes = [tf.size(ids[name]) for name in names]
            for name, part in zip(names, tf.split(flat, sizes, num=len(names)), strict=True):
                shape = tf.concat([tf.shape(ids[name]), [flat.shape[-1]]], axis=0)
                embedded[name] = tf.reshape(part, shape), ids[name] >= 0
        return embedded

    def _aggregate(
        self,
        inputs: Mapping[str, Any],
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor | None = None,
        ad_ids: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Aggregates the behaviours' images, once for samples that share them if that is the same.

        Args:
            inputs: The batch.
            behaviours: What `_embed_images` gave of `behaviour_images`, [B, T, D], of groups with G
                rows.
            mask: As behaviours.
            query: See `models.Aggregator`, as ad_ids.
            ad_ids: [B, any width].

        Returns:
            [B, width].
        """
        assert self.behaviour_images is not None and self.aggregator is not None
        groups = groups_of(self.behaviour_images, inputs)
        if getattr(self.aggregator, "of_user_alone", False):
            return per_sample(self.aggregator(behaviours, mask), groups)
        behaviours, mask = per_sample(behaviours, groups), per_sample(mask, groups)
        return self.aggregator(behaviours, mask, query, ad_ids)

    def _image_config(self) -> dict[str, Any]:
        """Describes the arguments of `_set_images`, image stores by their paths."""
        config: dict[str, Any] = {
            "ad_image": self.ad_image.name if self.ad_image else False,
            "behaviour_images": self.behaviour_images.name if self.behaviour_images else False,
        }
        layers = dict(self.image_embeddings)
        if not layers:
            return config
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
    ) -> Self:
        """Makes the model that `get_config` described, without its weights; opens its stores.

        Args:
            config: What `get_config` returned.
            custom_objects: Classes of parts that are not registered with Keras.
            **parts: Arguments that replace those of the configuration, as images elsewhere.
        """
        config = _images_of_config(config, custom_objects, parts)
        return cls(**{**parts_of_config(config, custom_objects), **parts})


def _images_of_config(
    config: dict[str, Any], custom_objects: dict[str, Any] | None, parts: dict[str, Any]
) -> dict[str, Any]:
    """Makes what `ImageInputs._image_config` described; opens the stores.

    Args:
        config: Configuration of a model.
        custom_objects: Classes of parts that are not registered with Keras.
        parts: Arguments that replace those of the configuration.

    Returns:
        The configuration with parts instead of descriptions, without what is replaced.
    """
    config = {key: value for key, value in config.items() if key not in parts}
    if "image_embedding" in parts:
        config.pop("images", None)
    elif "images" in config:
        config["images"] = {
            store: ImageStore.open(paths) for store, paths in config["images"].items()
        }
    for key in ("embedding_model", "image_embedding"):
        value = config.get(key)
        if isinstance(value, dict) and "class_name" not in value:
            config[key] = {
                store: keras.layers.deserialize(part, custom_objects)
                for store, part in value.items()
            }
    return config


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
