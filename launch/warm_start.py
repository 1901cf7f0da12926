"""Starts the weights of a new run from those of another one.

    python -m launch.train --dataset=NEWER --model=dicm --out=RUN --warm_start=OLDER_RUN

The partial warm-up of arXiv 1711.06505, section 7: images say the same in every data set, ids do
not. Or the other way round: a smaller model, to which images or attention are added. Why so:
docs/design/launch.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tensorflow.core.protobuf import trackable_object_graph_pb2

from amstf.errors import ConfigError
from amstf.layers import dynamic_embeddings
from amstf.schema import IMAGE, Field, Schema
from launch import checkpoints, click_model
from launch.run_directory import (
    EXTEND_START,
    FULL_START,
    IMAGES_START,
    NO_IMAGES,
    PARTIAL_START,
    RunConfig,
    RunDirectory,
)
from models import Mlp

# A model's children that are not its weights, and an IdEmbedding's that belong to ids. Occurrences
# are always those in the new run's data.
_OF_TRAINING = "optimizer"
_OF_IDS = {
    PARTIAL_START: ("tables", "dynamic_tables", "_hashing", "occurrences"),
    FULL_START: ("occurrences",),
    EXTEND_START: ("occurrences",),
}
_OF_ATTENTION = ("aggregator", "further_aggregators")
_OF_IMAGES = (*_OF_ATTENTION, "image_embeddings", "image_dropout")
_MEAN_TO_ATTENTION = ("mean", "attentive_mean")
_MOST_NAMED = 4
_CURE = f"use the widths, images and aggregator of that run, or --warm_start_mode={IMAGES_START}"
_CURES = {
    IMAGES_START: "use the widths of that run",
    EXTEND_START: "give a run of --model=embedding_mlp for dicm, or of din without images for din "
    "with them, of the same widths",
}


class _Stored(NamedTuple):
    """A weight in a checkpoint; no shape if it is not there."""

    shape: list[int] | None
    key: str


class WarmStart(NamedTuple):
    """What a warm start did; its `str` is the line that a person sees."""

    mode: str
    checkpoint: str
    loaded: int
    total: int

    def __str__(self) -> str:
        return (
            f"warm start ({self.mode}) from {self.checkpoint}: {self.loaded:,} of {self.total:,} "
            "weights"
        )


def apply(model: keras.Model, schema: Schema, config: RunConfig) -> WarmStart | None:
    """Reads the weights that `config` asks for into a model; on a cluster, each where it lives.

    Args:
        model: A new model with all its variables.
        schema: The fields that it is made for.
        config: `warm_start` and `warm_start_mode`, see `RunConfig`.

    Returns:
        What was read, or None if nothing was asked for.

    Raises:
        ConfigError: If the other run is not there or of another kind; names what differs.
        CheckpointError: If its checkpoint is not whole.
    """
    if not config.warm_start:
        return None
    source = RunDirectory(config.warm_start)
    path = click_model.checkpoint_of(source)
    mode = config.warm_start_mode
    if mode == IMAGES_START and config.images == NO_IMAGES:
        raise ConfigError(
            f"--warm_start_mode={mode} starts the embedding model of images, and the model "
            "that is to be trained sees none; use --images"
        )
    if mode != IMAGES_START:
        _check_fields(schema, Schema.load(source.path), config, mode)
    added = _added_parts(source.read_config(), config) if mode == EXTEND_START else ()
    part = _part_of(model, mode, without=added)
    wanted = list(_variables(part, path))
    grown = _first_kernel(model) if added == _OF_IMAGES else None
    differing = [
        f"{variable.name} is {_shape(stored.shape)} there and {_shape(variable.shape)} here"
        for variable, stored in wanted
        if not ((variable is grown and _may_grow(stored, variable)) or _is_equal(stored, variable))
    ]
    if differing:
        more = len(differing) - _MOST_NAMED
        listed = "; ".join(differing[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise ConfigError(
            f"--warm_start={config.warm_start}: with --warm_start_mode={mode} its weights do not "
            f"fit: {listed}; {_CURES.get(mode, _CURE)}"
        )
    with contextlib.ExitStack() as stack:
        for layer in dynamic_embeddings(model):
            stack.enter_context(layer.table.without_slots())
        if grown is not None:
            _read_grown(part, path)
        else:
            checkpoints.restore(tf.train.Checkpoint(model=part), path)
    loaded = sum(math.prod(stored.shape) for _, stored in wanted)
    return WarmStart(mode, path, loaded, model.count_params())


def _check_fields(here: Schema, there: Schema, config: RunConfig, mode: str) -> None:
    """Refuses other fields, whose weights would be read in the place of these."""
    one, other = (_fields(schema, config, mode) for schema in (here, there))
    if one == other:
        return
    added, lacking = [n for n in one if n not in other], [n for n in other if n not in one]
    changed = [name for name in one if name in other and one[name] != other[name]]
    parts = [
        f"{what} {', '.join(names)}"
        for what, names in (("more:", added), ("without", lacking), ("differing:", changed))
        if names
    ]
    same = "fields" if mode == PARTIAL_START else "ids and fields"
    raise ConfigError(
        f"--warm_start={config.warm_start}: the data set has other {same} than that run "
        f"({'; '.join(parts) or 'in another order'}); prepare it as that one was, or use "
        f"--warm_start_mode={IMAGES_START}"
        + (f" or {PARTIAL_START}" if mode == FULL_START and not added + lacking else "")
    )


def _fields(schema: Schema, config: RunConfig, mode: str) -> dict[str, Field]:
    fields = [f for f in schema.inputs if config.images != NO_IMAGES or f.kind != IMAGE]
    if mode in (FULL_START, EXTEND_START):
        return {field.name: field for field in fields}
    # How many ids there are is what may differ.
    return {
        field.name: dataclasses.replace(field, vocabulary_size=None, hash_size=1, dynamic=False)
        if field.num_ids or field.dynamic
        else field
        for field in fields
    }


def _added_parts(there: RunConfig, here: RunConfig) -> tuple[str, ...]:
    """Returns the model's children that the smaller model of `there` lacks.

    Raises:
        ConfigError: If what is added is nothing that can begin without effect.
    """
    if there.images == NO_IMAGES != here.images:
        return _OF_IMAGES
    # Which begins as a mean, see models.AttentivePooling.
    if there.images == here.images and (there.aggregator, here.aggregator) == _MEAN_TO_ATTENTION:
        return _OF_ATTENTION
    raise ConfigError(
        f"--warm_start_mode={EXTEND_START} adds images to a run without, or --aggregator="
        f"{_MEAN_TO_ATTENTION[1]} to one with {_MEAN_TO_ATTENTION[0]}; --warm_start="
        f"{here.warm_start} has --images={there.images} --aggregator={there.aggregator}, and this "
        f"run --images={here.images} --aggregator={here.aggregator}"
    )


def _part_of(model: keras.Model, mode: str, without: tuple[str, ...] = ()) -> tf.train.Checkpoint:
    """Returns the objects of a model to read, under the names they have in its checkpoint."""
    view = tf.train.TrackableView(model)
    children = {k: v for k, v in view.children(model).items() if k != _OF_TRAINING}
    if mode == IMAGES_START:
        children = {"image_embeddings": children["image_embeddings"]}
    else:
        children = {name: child for name, child in children.items() if name not in without}
        ids = view.children(children["id_embedding"])
        shared = {name: child for name, child in ids.items() if name not in _OF_IDS[mode]}
        children["id_embedding"] = tf.train.Checkpoint(**shared)
    return tf.train.Checkpoint(**children)


def _first_kernel(model: keras.Model) -> tf.Variable:
    """Returns the weights by which the network's first layer sees all that is concatenated.

    Raises:
        ConfigError: If the network has no such layer.
    """
    if not isinstance(model.mlp, Mlp) or not model.mlp.widths:
        raise ConfigError(
            f"--warm_start_mode={EXTEND_START} adds images to the first layer of an MLP, which "
            "this network lacks; use --model=dicm, or din"
        )
    return model.mlp.kernels[0]


def _is_equal(stored: _Stored, variable: tf.Variable) -> bool:
    return stored.shape == variable.shape.as_list()


def _may_grow(stored: _Stored, variable: tf.Variable) -> bool:
    """Whether only inputs were added."""
    here = variable.shape.as_list()
    return stored.shape is not None and stored.shape[1:] == here[1:] and stored.shape[0] <= here[0]


def _read_grown(part: tf.train.Checkpoint, path: str) -> None:
    """Reads a model without images into one with them: of the MLP, inputs that are new get zeros.

    The ids come first in what the MLP sees (`Dicm.join`), so the model predicts what the other did
    until it has learnt something of images.
    """
    children = dict(tf.train.TrackableView(part).children(part).items())
    mlp = tf.train.Checkpoint(mlp=children.pop("mlp"))
    checkpoints.restore(tf.train.Checkpoint(model=tf.train.Checkpoint(**children)), path)
    reader = tf.train.load_checkpoint(path)
    for variable, stored in _variables(mlp, path):
        value = reader.get_tensor(stored.key)
        lacking = np.subtract(variable.shape, value.shape)
        variable.assign(np.pad(value, [(0, count) for count in lacking]))


def _variables(root: Any, path: str) -> Iterator[tuple[Any, _Stored]]:
    """Walks the objects of a model beside those that a checkpoint holds for it.

    Yields:
        Each variable, one that is split as a whole, and what the checkpoint has of it.
    """
    reader = tf.train.load_checkpoint(path)
    graph = trackable_object_graph_pb2.TrackableObjectGraph()
    graph.ParseFromString(reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"))
    shapes = reader.get_variable_to_shape_map()
    view = tf.train.TrackableView(root)
    top = {child.local_name: child.node_id for child in graph.nodes[0].children}
    waiting: list[tuple[Any, int | None]] = [(root, top.get("model"))]
    seen: set[int] = set()
    while waiting:
        node, there = waiting.pop(0)
        if id(node) in seen:
            continue
        seen.add(id(node))
        stored = None if there is None else graph.nodes[there]
        if hasattr(node, "assign"):
            keys = [a.checkpoint_key for a in stored.attributes] if stored else []
            yield node, _Stored(shapes[keys[0]], keys[0]) if keys else _Stored(None, "")
            continue
        of_stored = {c.local_name: c.node_id for c in stored.children} if stored else {}
        waiting += [(child, of_stored.get(name)) for name, child in view.children(node).items()]


def _shape(shape: Any) -> str:
    return "not" if shape is None else "x".join(map(str, shape)) or "one number"
