"""Exports a model as a SavedModel that any TensorFlow loads: stock ops, no code of this project.

Layout of an export:

    saved_model.pb, variables/     the model, with image embeddings as a table; dynamic tables are
                                   static hash tables and rows
    assets.extra/amstf.json        schema, signatures, images, dynamic tables, variables, versions
    assets.extra/image_embeddings_STORE.parquet or .h5    the table, if it is beside the model

See docs/design/export.md.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf import files, image_tables
from amstf.data import input_specs
from amstf.embed_store import embed_store
from amstf.errors import ExportError
from amstf.layers import AmsEmbedding, missing_embedding, named_dynamic_embeddings
from amstf.schema import IMAGE, Schema
from amstf.signatures import (
    CLICK_PROBABILITY,
    EMBED_IMAGES,
    PREDICT,
    SERVE_EXAMPLES,
    Batch,
    ServedPart,
    Widths,
    input_names,
    named_outputs,
    takes_a_batch,
    trace_embed_images,
    trace_examples,
    trace_part,
    with_embeddings,
)
from amstf.stock_ops import check_stock_ops

__all__ = [
    "CLICK_PROBABILITY",
    "DESCRIPTION_FILE",
    "ServedPart",
    "export",
    "input_names",
    "named_outputs",
    "read_description",
]

# TF Serving leaves this directory of a SavedModel alone.
DESCRIPTION_FILE = "assets.extra/amstf.json"
_VERSION = 1

Progress = Callable[[str, int, int], None]


def export(
    model: keras.Model,
    schema: Schema,
    path: str | os.PathLike[str],
    *,
    images: Mapping[str, AmsEmbedding] | None = None,
    parts: Mapping[str, ServedPart] | None = None,
    signatures: Iterable[str] | None = None,
    table: str = image_tables.INSIDE,
    table_dtype: str = "float32",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes a SavedModel with the signatures that serving needs.

    `serving_default` takes serialized `tf.train.Example`s [B] as `examples`, `predict` the schema's
    input fields by name (ids [B], lists [B, T] padded with -1, see `input_names`); both
    give `click_probability` [B, 1] and, for each further label that the model predicts,
    `LABEL_probability`. For a model with images `embed_images` takes raw `features`
    [n, F] of images that are not in the table and gives `embeddings` [n, D]; with several stores
    there is one for each, `embed_images_STORE`. Parts of a model that are served alone (the towers
    of `models.TwoTower`, one user's page view of many ads) have signatures of their own.

    E runs once over each store; what it gives becomes a table in the model, or a file beside it.
    In the second case requests bring embeddings along: each image field has a further input
    `FIELD_embedding`, [B, D] or [B, T, D] (in an Example floats `FIELD.embedding`). An image that
    is not in the table has the vector that training gave such images: the one that was learnt with
    `missing="learn"`, otherwise zero. Of a dynamic table (`DynamicEmbedding`) the rows as they are
    now become a variable and a static hash table; an id without a row is embedded as in prediction.
    The given model is afterwards what it was before.

    Args:
        model: A built model of this process (not on parameter servers), batch -> [B, 1] or a dict
            of label -> [B, 1].
        schema: The fields of a batch.
        path: Directory to make, or an empty one.
        images: The image layers of the model by store name; by default `model.image_embeddings`.
        parts: Name of the signature -> part to serve alone; by default what `model.served_parts()`
            returns, if the model has that.
        signatures: Names of those to write, all by default. Variables that they do not read stay
            out, so that one tower is served without the tables of the other.
        table: "inside" the model, or beside it as "parquet" or "hdf5".
        table_dtype: Type of the table's floats, "float32" or "float16".
        progress: Called with a store's name, the images embedded so far, and the images in all.

    Returns:
        The description that is stored as `assets.extra/amstf.json`.

    Raises:
        ExportError: If the directory is not empty, the model is not built or lives on servers, it
            has no signature of a name that is asked for, or its graph holds ops that stock
            TensorFlow does not have, or would need them for ids without a row (`StaticRows`).
        StoreError: If a store cannot be read.

    Example:
        >>> import tempfile
        >>> from amstf.schema import Field
        >>> schema = Schema((Field("price", "dense"), Field("click", "label")))
        >>> class Model(keras.Model):
        ...     def call(self, inputs):
        ...         return tf.sigmoid(inputs["price"])
        >>> model = Model()
        >>> _ = model({"price": tf.zeros([1, 1])})
        >>> directory = tempfile.mkdtemp() + "/model"
        >>> _ = export(model, schema, directory)
        >>> serve = tf.saved_model.load(directory).signatures["predict"]
        >>> serve(price=tf.constant([[0.0]]))["click_probability"].numpy().tolist()
        [[0.5]]
    """
    path = pathlib.Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ExportError(f"{path} exists; export to a directory that is new or empty")
    _check_model(model)
    image_tables.check_table(table, table_dtype)
    layers = _image_layers(model, images)
    widths = {} if table == image_tables.INSIDE else _widths(schema, layers)
    if parts is None:
        parts = getattr(model, "served_parts", dict)()
    makers = _signatures(model, schema, layers, parts, widths)
    chosen = list(makers) if signatures is None else _chosen(signatures, makers)
    embedded: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    with contextlib.ExitStack() as tables:
        for layer, store in {id(each): (each, name) for name, each in layers.items()}.values():
            ids, embeddings = embed_store(layer, progress and _named(progress, store))
            embeddings = image_tables.as_dtype(embeddings, table_dtype)
            if table == image_tables.INSIDE:
                tables.enter_context(layer.table(ids, embeddings))
            else:
                embedded[store] = ids, embeddings
        dynamic = {
            name: tables.enter_context(layer.static_rows(name))
            for name, layer in named_dynamic_embeddings(model).items()
        }
        traced = {name: makers[name]() for name in chosen}
        # Kept here, since nothing else holds the tables once the layers have let go of them.
        state = _state(model, traced)
    module = tf.Module()
    module.state = list(state.values())
    # Those that are read, in the order of their ids in the state, by which a delta finds them.
    named = {id(rows.ids): (name, rows) for name, rows in dynamic.items()}
    dynamic = dict(named[id(variable)] for variable in module.state if id(variable) in named)
    module.tables = [rows.index for rows in dynamic.values()]
    description = _describe(schema, layers, traced, widths)
    description["variables"] = list(state)
    description["dynamic_tables"] = {
        name: {"rows": len(rows), "width": int(rows.rows.shape[1])}
        for name, rows in dynamic.items()
    }
    owners = {id(layer): store for store, layer in layers.items()}
    for store, about in description["images"].items():
        learnt = missing_embedding(layers[store].embedding_model)
        default = [0.0] * about["embedding_width"] if learnt is None else learnt.numpy().tolist()
        about |= {"table": table, "dtype": table_dtype, "default": default}
        if table != image_tables.INSIDE:
            about["file"] = image_tables.file_name(owners[id(layers[store])], table)
    try:
        # Nobody trains an export, and a gradient may have no meaning (of a mask that is gathered).
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(module, str(path), signatures=traced, options=options)
        check_stock_ops(path)
        file = path / DESCRIPTION_FILE
        file.parent.mkdir()
        for store, (ids, embeddings) in embedded.items():
            image_tables.write_table(file.parent, store, table, ids, embeddings)
        file.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return description


def _check_model(model: keras.Model) -> None:
    if not model.built:
        raise ExportError(
            f"model {model.name!r} has no variables yet; call it on a batch (or models.build) first"
        )
    for variable in model.weights:
        if "/job:" in variable.device and "/job:localhost" not in variable.device:
            raise ExportError(
                f"model {model.name!r} lives on parameter servers ({variable.device}); save a "
                "checkpoint, restore it into a model that is made without a strategy, and export it"
            )


def _state(model: keras.Model, signatures: Mapping[str, Any]) -> dict[str, tf.Variable]:
    """Returns what the signatures read and no more: no optimizer, and each variable once.

    Returns:
        Name -> variable, the model's weights in its order, then the tables. The names are those by
        which two exports are compared; Keras' own count the models of a process.
    """
    read = {id(v): v for signature in signatures.values() for v in signature.graph.variables}
    weights = {f"weights/{k}": read.pop(id(v), None) for k, v in enumerate(model.weights)}
    others = {variable.name: variable for variable in read.values()}
    return {
        name: variable
        for name, variable in (*weights.items(), *sorted(others.items()))
        if variable is not None
    }


def _image_layers(
    model: keras.Model, images: Mapping[str, AmsEmbedding] | None
) -> dict[str, AmsEmbedding]:
    if images is None:
        images = getattr(model, "image_embeddings", {})
    # A layer of another kind brings its own embeddings; the check of the ops has the last word.
    return {name: layer for name, layer in images.items() if isinstance(layer, AmsEmbedding)}


def _widths(schema: Schema, layers: Mapping[str, AmsEmbedding]) -> dict[str, int]:
    """Returns the image fields whose embeddings a request brings -> floats of each."""
    return {
        field.name: layers[field.store_name].embedding_width
        for field in schema.of_kind(IMAGE)
        if field.store_name in layers
    }


def _named(progress: Progress, store: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(store, done, total)


def _signatures(
    model: keras.Model,
    schema: Schema,
    layers: Mapping[str, AmsEmbedding],
    parts: Mapping[str, ServedPart],
    widths: Widths,
) -> dict[str, Callable[[], Any]]:
    """Returns the name of each signature that the model can have -> a function that traces it."""
    labels = getattr(model, "labels", None)

    def predict(batch: Batch) -> Mapping[str, tf.Tensor]:
        return named_outputs(model(batch, training=False), schema, labels)

    whole = ServedPart(predict, input_specs(schema))
    makers: dict[str, Callable[[], Any]] = {
        SERVE_EXAMPLES: functools.partial(trace_examples, whole, schema, widths),
    }
    for name, part in {PREDICT: whole, **parts}.items():
        part = with_embeddings(part, widths)
        makers[name] = functools.partial(trace_part, part, schema, widths)
    for store, layer in layers.items():
        name = EMBED_IMAGES if len(layers) == 1 else f"{EMBED_IMAGES}_{store}"
        makers[name] = functools.partial(trace_embed_images, layer)
    return makers


def _chosen(signatures: Iterable[str], known: Iterable[str]) -> list[str]:
    chosen, known = list(signatures), list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise ExportError(
            f"signatures names {', '.join(unknown) or 'nothing'}; the model has {', '.join(known)}"
        )
    return chosen


def _describe(
    schema: Schema,
    layers: Mapping[str, AmsEmbedding],
    signatures: Mapping[str, Any],
    widths: Widths,
) -> dict[str, Any]:
    fields = {name: key for key, name in input_names(schema, widths).items()}

    def specs(tensors: Mapping[str, tf.TensorSpec], of_batch: bool) -> dict[str, Any]:
        return {
            name: {
                "dtype": spec.dtype.name,
                "shape": spec.shape.as_list(),
                **({"field": fields[name]} if of_batch and name in fields else {}),
            }
            for name, spec in tensors.items()
        }

    def inputs(signature: Any) -> dict[str, tf.TensorSpec]:
        positional, by_name = signature.structured_input_signature
        return {**{spec.name: spec for spec in positional}, **by_name}

    return {
        "version": _VERSION,
        "signatures": {
            name: {
                "inputs": specs(inputs(signature), of_batch=takes_a_batch(name)),
                "outputs": specs(signature.structured_outputs, of_batch=False),
            }
            for name, signature in signatures.items()
        },
        "images": {
            store: {
                "images": len(layer.store),
                "features": layer.store.width,
                "embedding_width": layer.embedding_width,
            }
            for store, layer in layers.items()
        },
        "versions": {name: _version(name) for name in ("amstf", "tensorflow", "tf-keras")},
        "schema": json.loads(schema.to_json()),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def read_description(export: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what an export says of itself, `assets.extra/amstf.json`.

    Raises:
        ExportError: If it is missing or broken.
    """
    path = pathlib.Path(export, DESCRIPTION_FILE)
    try:
        content: dict[str, Any] = files.parse_json(files.read_text(path))
        if content["version"] != _VERSION:
            raise ValueError(
                f"its version is {content['version']!r}, this program reads {_VERSION}"
            )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ExportError(
            f"{path} is not the description of an export ({error}); python -m launch.export makes "
            "one"
        ) from error
    return content
