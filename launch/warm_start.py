"""Starts the weights of a new run from those of another one.

    python -m launch.train --dataset=NEWER --model=dicm --out=RUN --warm_start=OLDER_RUN

The partial warm-up of arXiv 1711.06505, section 7: images say the same in every data set, ids do
not. Why so: docs/design/launch.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf
import tf_keras as keras
from tensorflow.core.protobuf import trackable_object_graph_pb2

from amstf.errors import ConfigError
from amstf.layers import dynamic_embeddings
from amstf.schema import IMAGE, Field, Schema
from launch import checkpoints, click_model
from launch.run_directory import (
    FULL_START,
    IMAGES_START,
    NO_IMAGES,
    PARTIAL_START,
    RunConfig,
    RunDirectory,
)

# A model's children that are not its weights, and an IdEmbedding's that belong to ids. Occurrences
# are always those in the new run's data.
_OF_TRAINING = "optimizer"
_OF_IDS = {
    PARTIAL_START: ("tables", "dynamic_tables", "_hashing", "occurrences"),
    FULL_START: ("occurrences",),
}
_MOST_NAMED = 4


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
    if mode == IMAGES_START:
        if config.images == NO_IMAGES:
            raise ConfigError(
                f"--warm_start_mode={mode} starts the embedding model of images, and the model "
                "that is to be trained sees none; use --images"
            )
    else:
        _check_fields(schema, Schema.load(source.path), config, mode)
    part = _part_of(model, mode)
    wanted = list(_variables(part, path))
    differing = [
        f"{variable.name} is {_shape(shape)} there and {_shape(variable.shape)} here"
        for variable, shape in wanted
        if shape is None or list(shape) != variable.shape.as_list()
    ]
    if differing:
        more = len(differing) - _MOST_NAMED
        listed = "; ".join(differing[:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise ConfigError(
            f"--warm_start={config.warm_start}: with --warm_start_mode={mode} its weights do not "
            f"fit: {listed}; use the widths, images and aggregator of that run"
            + ("" if mode == IMAGES_START else f", or --warm_start_mode={IMAGES_START}")
        )
    with contextlib.ExitStack() as stack:
        for layer in dynamic_embeddings(model):
            stack.enter_context(layer.table.without_slots())
        checkpoints.restore(tf.train.Checkpoint(model=part), path)
    loaded = sum(variable.shape.num_elements() for variable, _ in wanted)
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
    same = "ids and fields" if mode == FULL_START else "fields"
    raise ConfigError(
        f"--warm_start={config.warm_start}: the data set has other {same} than that run "
        f"({'; '.join(parts) or 'in another order'}); prepare it as that one was, or use "
        f"--warm_start_mode={IMAGES_START}"
        + (f" or {PARTIAL_START}" if mode == FULL_START and not added + lacking else "")
    )


def _fields(schema: Schema, config: RunConfig, mode: str) -> dict[str, Field]:
    fields = [f for f in schema.inputs if config.images != NO_IMAGES or f.kind != IMAGE]
    if mode == FULL_START:
        return {field.name: field for field in fields}
    # How many ids there are is what may differ.
    return {
        field.name: dataclasses.replace(field, vocabulary_size=None, hash_size=1, dynamic=False)
        if field.num_ids or field.dynamic
        else field
        for field in fields
    }


def _part_of(model: keras.Model, mode: str) -> tf.train.Checkpoint:
    """Returns the objects of a model to read, under the names they have in its checkpoint."""
    view = tf.train.TrackableView(model)
    children = {k: v for k, v in view.children(model).items() if k != _OF_TRAINING}
    if mode == IMAGES_START:
        children = {"image_embeddings": children["image_embeddings"]}
    else:
        ids = view.children(children["id_embedding"])
        shared = {name: child for name, child in ids.items() if name not in _OF_IDS[mode]}
        children["id_embedding"] = tf.train.Checkpoint(**shared)
    return tf.train.Checkpoint(**children)


def _variables(root: Any, path: str) -> Iterator[tuple[Any, list[int] | None]]:
    """Walks the objects of a model beside those that a checkpoint holds for it.

    Yields:
        Each variable, one that is split as a whole, and its shape in the checkpoint; None if it is
        not there.
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
            yield node, shapes[keys[0]] if keys else None
            continue
        of_stored = {c.local_name: c.node_id for c in stored.children} if stored else {}
        waiting += [(child, of_stored.get(name)) for name, child in view.children(node).items()]


def _shape(shape: Any) -> str:
    return "not" if shape is None else "x".join(map(str, shape)) or "one number"
