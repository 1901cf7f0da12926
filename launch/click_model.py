"""Makes the click model of a run, for training, evaluation and export alike."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.data import Samples
from amstf.errors import ConfigError
from amstf.layers import AmsEmbedding
from amstf.optimizers import Adam
from amstf.schema import IMAGE, Schema
from amstf.store import ImageStore
from launch import checkpoints
from launch.interaction import options_of
from launch.run_directory import (
    AD_IMAGE,
    BEHAVIOUR_IMAGES,
    DCN,
    DCN_V2,
    DEEPFM,
    DICM,
    DIN,
    EMBEDDING_MLP,
    FIBINET,
    FIRST_LABEL,
    LR,
    MUTUAL,
    NO_IMAGES,
    PNN,
    PRERANK,
    RunConfig,
    RunDirectory,
)
from launch.store_servers import servers_of
from models import (
    Dcn,
    DcnV2,
    DeepFm,
    Dicm,
    Din,
    EmbeddingMlp,
    FiBiNet,
    IdRegularization,
    LogisticRegression,
    MutualLearning,
    Pnn,
    TwoTower,
    build,
    image_tower,
)

_BASE_NETWORKS = {
    LR: LogisticRegression,
    EMBEDDING_MLP: EmbeddingMlp,
    DIN: Din,
    DICM: EmbeddingMlp,
    DEEPFM: DeepFm,
    DCN: Dcn,
    DCN_V2: DcnV2,
    PNN: Pnn,
    FIBINET: FiBiNet,
}


def open_stores(samples: Samples) -> dict[str, ImageStore]:
    """Opens the image stores that the image fields of a data set refer to."""
    names = dict.fromkeys(field.store_name for field in samples.schema.of_kind(IMAGE))
    return {name: ImageStore.open(samples.image_store_path(name)) for name in names}


def open_stores_of(config: RunConfig, samples: Samples) -> dict[str, ImageStore]:
    """Opens the image stores of a data set if the model sees images."""
    return {} if config.images == NO_IMAGES else open_stores(samples)


def image_width(stores: Mapping[str, ImageStore]) -> int | dict[str, int]:
    """Returns `RunConfig.image_width` of these stores."""
    widths = {name: store.width for name, store in stores.items()}
    return widths if len(set(widths.values())) > 1 else max(widths.values(), default=0)


def with_image_width(config: RunConfig, stores: Mapping[str, ImageStore]) -> RunConfig:
    """Returns a configuration, and in it those of members, that knows how wide images are."""
    width = 0 if config.images == NO_IMAGES else image_width(stores)
    members = {name: with_image_width(member, stores) for name, member in config.members.items()}
    return dataclasses.replace(config, image_width=width, members=members)


def labels_of(config: RunConfig, schema: Schema) -> list[str]:
    """Returns the names of the labels that the model predicts, or each model of a mutual run."""
    if config.model == MUTUAL:
        config = next(iter(config.members.values()))
    labels = [field.name for field in schema.labels]
    only_first = config.labels == FIRST_LABEL or config.model == PRERANK
    return labels[:1] if only_first else labels


def make_model(config: RunConfig, schema: Schema, stores: dict[str, ImageStore]) -> keras.Model:
    """Makes the model with all its variables, in the scope of the current strategy.

    Args:
        config: Which model, and how wide.
        schema: The fields of a batch.
        stores: Image stores by name; none needed for a model without images.

    Raises:
        ConfigError: If the schema lacks images that the model should see, or the stores hold
            another width than the run was trained with.
        SchemaError: If the schema has no fields that the model needs.
    """
    if config.model == MUTUAL:
        members = {n: make_model(one, schema, stores) for n, one in config.members.items()}
        model = MutualLearning(
            members, config.agreement, config.mutual_weight, config.mutual_warm_up
        )
        return build(model, schema)
    keras.utils.set_random_seed(config.seed)
    common = {
        "hidden": config.hidden,
        "dropout": config.dropout,
        "embeddings_regularizer": _id_regularization(config),
        **({"activation": config.activation} if config.activation else {}),
    }
    images = _image_arguments(config, schema, stores)
    if config.model == PRERANK:
        return build(TwoTower(schema, **common, **images), schema)
    common["labels"] = labels_of(config, schema)
    common["interaction"] = options_of(config.model, config.interaction)
    base = _BASE_NETWORKS[config.model]
    if config.images == NO_IMAGES:
        return build(base(schema, **common), schema)
    return build(Dicm(schema, base=base, **common, **images), schema)


def _id_regularization(config: RunConfig) -> IdRegularization | None:
    if not (config.id_l2 or config.id_gate or config.id_dropout):
        return None
    return IdRegularization(
        config.id_l2,
        config.id_gate,
        config.id_gate_fields or None,
        config.id_dropout,
        config.id_dropout_fields or None,
    )


def _image_arguments(
    config: RunConfig, schema: Schema, stores: dict[str, ImageStore]
) -> dict[str, Any]:
    names = ("image_dropout", "image_products", "unit_images")
    of_dicm = {name: value for name in names if (value := getattr(config, name))}
    if of_dicm and (config.model == PRERANK or config.images == NO_IMAGES):
        raise ConfigError(
            f"{', '.join(of_dicm)} is for images that a model sees beside ids, and {config.title} "
            "sees none so; leave it out"
        )
    if config.images == NO_IMAGES:
        return {"ad_image": False, "behaviour_images": False}
    if not stores:
        raise ConfigError(
            f"model {config.title} needs images, and the data set's schema has no image field"
        )
    for images, side, is_list in ((AD_IMAGE, "ad", False), (BEHAVIOUR_IMAGES, "user", True)):
        fields = [f for f in schema.of_kind(IMAGE, side=side) if f.is_list == is_list]
        if config.images == images and not fields:
            what = "list of images" if is_list else "single image"
            raise ConfigError(
                f"images is {images!r}, and the data set's schema has no {what} of side {side!r}"
            )
    for name, store in stores.items():
        wanted = config.image_width
        if isinstance(wanted, dict):
            wanted = wanted.get(name, 0)
        if wanted not in (0, store.width):
            raise ConfigError(
                f"the model takes {wanted} features an image, but the image store "
                f"{name!r} ({store.paths[0]}) holds {store.width}; use the features that the run "
                "was trained on"
            )
    return {
        **of_dicm,
        "images": stores,
        "embedding_model": _embedding_model(config, stores),
        "image_servers": _image_servers(config, schema, stores),
        "aggregator": config.aggregator,
        "missing": config.missing,
        "ad_image": False if config.images == BEHAVIOUR_IMAGES else None,
        "behaviour_images": False if config.images == AD_IMAGE else None,
    }


def _embedding_model(config: RunConfig, stores: Mapping[str, ImageStore]) -> Any:
    make = functools.partial(
        image_tower,
        config.tower,
        config.tower_activation or config.activation or "prelu",
        dropout=config.tower_dropout,
    )
    if not config.separate_towers:
        return make  # The model knows how many it needs.
    return {name: make(name=f"image_tower_{name}") for name in stores}


def _image_servers(
    config: RunConfig, schema: Schema, stores: Mapping[str, ImageStore]
) -> dict[str, tuple[int, ...]]:
    servers = servers_of(config.store_servers)
    unknown = [name for name in servers if name not in stores]
    if unknown:
        raise ConfigError(
            f"--store_servers: the data set has no image store {unknown[0]!r}, but "
            f"{', '.join(stores)}"
        )
    unseen = {AD_IMAGE: "user", BEHAVIOUR_IMAGES: "ad"}.get(config.images)
    used = {field.store_name for field in schema.of_kind(IMAGE) if field.side != unseen}
    return {name: indices for name, indices in servers.items() if name in used}


def make_optimizer(config: RunConfig) -> Adam:
    """Makes the optimizer of a run, whose learning rate follows from its count of updates."""
    if config.learning_rate_decay == 1:
        return Adam(config.learning_rate)
    return Adam(
        keras.optimizers.schedules.ExponentialDecay(
            config.learning_rate, config.decay_steps, config.learning_rate_decay, staircase=True
        )
    )


def image_layers(model: keras.Model) -> dict[str, AmsEmbedding]:
    """Returns the image embedding layers of a model by store name; none for a model of ids."""
    return dict(getattr(model, "image_embeddings", {}))


def image_counters(model: keras.Model, is_on_servers: bool) -> dict[str, dict[str, int]]:
    """Returns what was looked up in the image stores of a model, by name.

    Args:
        model: The model.
        is_on_servers: Whether parameter servers hold the images. Stores of one file that the same
            servers hold, or this process, are counted together, under all their names.
    """
    layers = image_layers(model)
    names: dict[Any, list[str]] = {}
    for name, layer in layers.items():
        holders = layer.servers if is_on_servers else None
        names.setdefault((tuple(layer.store.paths), holders), []).append(name)
    return {", ".join(same): layers[same[0]].counters() for same in names.values()}


def load_run(
    run: RunDirectory, samples: Samples | None = None, which: str = "best"
) -> tuple[keras.Model, Samples, RunConfig]:
    """Makes the model of a run in this process and restores its weights.

    Args:
        run: The run.
        samples: The data set to use; by default the one the run was trained on.
        which: "best" by validation AUC, or "last".

    Returns:
        The model, the data set and the configuration.

    Raises:
        ConfigError: If the run has no checkpoint, or the data set does not fit the model.
        CheckpointError: If the checkpoint is not whole.
    """
    config = run.read_config()
    samples = samples or Samples.open(config.dataset)
    checkpoint = checkpoint_of(run, which)
    model = make_run_model(run, samples)
    checkpoints.restore(tf.train.Checkpoint(model=model), checkpoint)
    return model, samples, config


def checkpoint_of(run: RunDirectory, which: str = "best") -> str:
    """Returns the path of a run's checkpoint, "best" by validation AUC if it has one, or "last".

    Raises:
        ConfigError: If the run has no checkpoint.
    """
    checkpoint = tf.train.latest_checkpoint(str(run.best)) if which == "best" else None
    checkpoint = checkpoint or tf.train.latest_checkpoint(str(run.checkpoints))
    if checkpoint is None:
        raise ConfigError(f"{run.path} has no checkpoint yet; let python -m launch.train go on")
    return checkpoint


def make_run_model(run: RunDirectory, samples: Samples) -> keras.Model:
    """Makes the model of a run in this process, with new weights; raises as `load_run`."""
    config = run.read_config()
    trained = Schema.load(run.path)
    lacking = [field.name for field in trained.inputs if field not in samples.schema.fields]
    if lacking:
        raise ConfigError(
            f"{samples.directory} lacks fields that {run.path} was trained on, or has others under "
            f"their names: {', '.join(lacking)}; prepare the data set as the training data was"
        )
    return make_model(config, trained, open_stores_of(config, samples))
