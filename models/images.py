"""The images of a model: which fields hold them, and one call per store that embeds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import tensorflow as tf
import tf_keras as keras

from amstf.errors import ConfigError, SchemaError
from amstf.layers import AmsEmbedding, learning_missing
from amstf.schema import IMAGE, NO_ID, Field, Schema
from amstf.signatures import embedding_name
from amstf.store import ImageStore
from models.aggregators import make_aggregator
from models.blocks import image_tower
from models.embedding_mlp import parts_of_config
from models.single_ids import groups_of, one_per_sample, per_sample, value_of

FieldNames = str | Sequence[str] | Literal[False] | None
"""What says which image fields a model takes: a name, several, False for none, None for all."""

EmbeddingModels = keras.Model | Mapping[str, keras.Model] | Callable[..., keras.Model] | None
"""What says which E embeds the images of which store; see `models.Dicm`."""


class ImageInputs:
    """What models with images share, to be inherited beside `keras.Model`.

    Attributes:
        ad_images: Fields of images of the ad, in the order of the schema.
        behaviour_images: Fields of the behaviours' images, in the order of the schema.
        image_embeddings: Store name -> layer from ids of any shape to [..., D]; export reads it.
    """

    schema: Schema
    ad_images: tuple[Field, ...]
    behaviour_images: tuple[Field, ...]
    image_embeddings: dict[str, keras.layers.Layer]
    aggregator: keras.layers.Layer | None

    def _set_images(
        self,
        images: Any,
        embedding_model: EmbeddingModels,
        missing: str,
        image_servers: Mapping[str, Sequence[int]] | None,
        ad_image: FieldNames,
        behaviour_images: FieldNames,
        image_embedding: keras.layers.Layer | Mapping[str, keras.layers.Layer] | None,
    ) -> None:
        """Sets the attributes; `models.Dicm` says what the arguments are.

        Raises:
            SchemaError: If a field that is named is no image field.
            ConfigError: If a store is missing, or arguments do not go together.
        """
        self.ad_images = _choose(self.schema, ad_image, side="ad", is_list=False)
        self.behaviour_images = _choose(self.schema, behaviour_images, side="user", is_list=True)
        fields = (*self.ad_images, *self.behaviour_images)
        stores = list(dict.fromkeys(field.store_name for field in fields))
        if stores and image_embedding is None:
            image_embedding = _ams_embeddings(
                stores, images, embedding_model, missing, image_servers or {}, self._is_one_kind()
            )
        self.image_embeddings = _by_store("image_embedding", image_embedding or {}, stores)

    def _is_one_kind(self) -> bool:
        """Whether the ad's image and the behaviours' are one kind, kept in two stores."""
        return len(self.ad_images) == len(self.behaviour_images) == 1

    def _set_aggregators(
        self, aggregator: str | keras.layers.Layer | Mapping[str, Any] | None
    ) -> None:
        """Sets `aggregator`, of the first list of images, and those of further lists.

        Raises:
            ConfigError: If there is no such aggregator, or a dict of them lacks a list.
        """
        names = [field.name for field in self.behaviour_images]
        if isinstance(aggregator, Mapping):
            lacking = [name for name in names if name not in aggregator]
            if lacking:
                raise ConfigError(
                    f"aggregator lacks {', '.join(lacking)}; give one for each list of images, or "
                    "one for all"
                )
        made = []
        for k, field in enumerate(self.behaviour_images):
            one = aggregator[field.name] if isinstance(aggregator, Mapping) else aggregator
            name = f"aggregator_{field.name}" if k else "aggregator"
            if k and isinstance(aggregator, keras.layers.Layer):
                # Weights of its own: embeddings of another store mean something else.
                one = type(aggregator).from_config({**aggregator.get_config(), "name": name})
            made.append(make_aggregator(one, field.max_length, name))
        self.aggregator = made[0] if made else None
        if made[1:]:
            # Apart, and only where there are some, so that a model of one list has the checkpoint
            # that it always had.
            self.further_aggregators = made[1:]

    @property
    def aggregators(self) -> dict[str, keras.layers.Layer]:
        """Name of a field of behaviours' images -> its aggregator."""
        made = [self.aggregator, *getattr(self, "further_aggregators", ())]
        return {f.name: a for f, a in zip(self.behaviour_images, made, strict=False)}

    def _query_of(self, behaviours: Field) -> Field | None:
        """Returns the image of the ad that asks: of the same store if there is one."""
        same = [field for field in self.ad_images if field.store_name == behaviours.store_name]
        return next(iter((*same, *self.ad_images)), None)

    def _embed_images(
        self, inputs: Mapping[str, Any], fields: Iterable[Field]
    ) -> dict[str, tuple[tf.Tensor, tf.Tensor]]:
        """Embeds the images of some fields, in one call per store.

        Args:
            inputs: A batch that has these fields. One that brings a field's embeddings along (by
                `amstf.signatures.embedding_name`, [B, D] or [B, T, D]) has them taken.
            fields: Image fields.

        Returns:
            Field name -> embeddings [B, D] or [B, T, D], and which of them are images, bool [B] or
            [B, T]. In a batch of groups, fields of the user have a row for each group.
        """
        ids = {field.name: _image_ids(field, inputs) for field in fields}
        embedded: dict[str, tuple[tf.Tensor, tf.Tensor]] = {}
        for store, layer in self.image_embeddings.items():
            names = []
            for name in ids:
                if self.schema[name].store_name == store:
                    given = inputs.get(embedding_name(name))
                    if given is None:
                        names.append(name)
                        continue
                    mask = ids[name] >= 0
                    embedded[name] = tf.where(mask[..., None], given, tf.zeros_like(given)), mask
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
        field: Field,
        inputs: Mapping[str, Any],
        behaviours: tf.Tensor,
        mask: tf.Tensor,
        query: tf.Tensor | None = None,
        ad_ids: tf.Tensor | None = None,
    ) -> tf.Tensor:
        """Aggregates the behaviours' images, once for samples that share them if that is the same.

        Args:
            field: Which of `behaviour_images`.
            inputs: The batch.
            behaviours: What `_embed_images` gave of it, [B, T, D], of groups with G rows.
            mask: As behaviours.
            query: See `models.Aggregator`, as ad_ids.
            ad_ids: [B, any width].

        Returns:
            [B, width].
        """
        aggregator, groups = self.aggregators[field.name], groups_of(field, inputs)
        if getattr(aggregator, "of_user_alone", False):
            return per_sample(aggregator(behaviours, mask), groups)
        one_user = behaviours.shape[0] == 1 and getattr(aggregator, "shares_user", False)
        if not one_user:
            behaviours, mask = per_sample(behaviours, groups), per_sample(mask, groups)
        return aggregator(behaviours, mask, query, ad_ids)

    def _image_config(self) -> dict[str, Any]:
        """Describes images and aggregators, image stores by their paths."""
        aggregators = {n: keras.layers.serialize(a) for n, a in self.aggregators.items()}
        config: dict[str, Any] = {
            "ad_image": _names(self.ad_images),
            "behaviour_images": _names(self.behaviour_images),
            "aggregator": aggregators
            if len(aggregators) > 1
            else next(iter(aggregators.values()), None),
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
    for key in ("embedding_model", "image_embedding", "aggregator"):
        value = config.get(key)
        if isinstance(value, dict) and "class_name" not in value:
            config[key] = {
                name: keras.layers.deserialize(part, custom_objects) for name, part in value.items()
            }
    return config


def _serialized(layers: keras.layers.Layer | Mapping[str, keras.layers.Layer]) -> dict[str, Any]:
    if isinstance(layers, Mapping):
        return {store: keras.layers.serialize(layer) for store, layer in layers.items()}
    return keras.layers.serialize(layers)


def _names(fields: Sequence[Field]) -> str | list[str] | Literal[False]:
    names = [field.name for field in fields]
    return names if len(names) > 1 else next(iter(names), False)


def _choose(schema: Schema, wanted: FieldNames, side: str, is_list: bool) -> tuple[Field, ...]:
    """Returns the image fields of these names, or all of that side, in the schema's order."""
    argument = "behaviour_images" if is_list else "ad_image"
    if wanted is False:
        return ()
    fitting = [f for f in schema.of_kind(IMAGE) if f.is_list == is_list]
    if wanted is None:
        return tuple(field for field in fitting if field.side == side)
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    known = [field.name for field in fitting]
    for name in names:
        if name not in known:
            kind = "image list" if is_list else "single image"
            raise SchemaError(
                f"{argument} is {name!r}, which is no {kind} field; the schema has: "
                f"{', '.join(known) or 'none'}"
            )
    return tuple(field for field in fitting if field.name in names)


def _ams_embeddings(
    stores: list[str],
    images: Any,
    embedding_model: Any,
    missing: str,
    servers: Mapping[str, Sequence[int]],
    is_one_kind: bool,
) -> dict[str, keras.layers.Layer]:
    if images is None:
        raise ConfigError("give images, an image store, or image_embedding in its place")
    images = _by_store("images", images, stores)
    if embedding_model is None:
        embedding_model = image_tower
    if callable(embedding_model) and not isinstance(embedding_model, keras.layers.Layer):
        same_width = len({images[store].width for store in stores}) == 1
        if len(stores) == 1 or (is_one_kind and same_width):
            # Images of one kind mean the same wherever they are kept.
            embedding_model = embedding_model(name="image_tower")
        else:
            embedding_model = {s: embedding_model(name=f"image_tower_{s}") for s in stores}
    models = _by_store("embedding_model", embedding_model, stores)
    if missing == "learn":
        # Once for each E, since stores that share one must go on to share it.
        learning = {id(model): learning_missing(model) for model in models.values()}
        models = {store: learning[id(model)] for store, model in models.items()}
    widths = {store: images[store].width for store in stores}
    if len(set(widths.values())) > 1 and not isinstance(embedding_model, Mapping):
        held = ", ".join(f"{store} {width}" for store, width in widths.items())
        raise ConfigError(
            f"embedding_model is one model and the stores differ in features an image ({held}); "
            "give a dict of store name -> model, or a function as models.image_tower"
        )
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
