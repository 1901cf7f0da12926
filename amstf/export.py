"""Exports a model as a SavedModel that any TensorFlow loads: stock ops, no code of this project.

Layout of an export:

    saved_model.pb, variables/     the model; image embeddings are a table in it, the images are not
    assets.extra/amstf.json        schema, signatures, number of images, versions

See docs/design/export.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.data import input_specs, parse_batch
from amstf.embed_store import embed_store
from amstf.errors import ExportError
from amstf.layers import AmsEmbedding
from amstf.schema import Schema
from amstf.stock_ops import check_stock_ops

SERVE_INPUTS = "serving_default"
SERVE_EXAMPLES = "serve_examples"
EMBED_IMAGES = "embed_images"
EXAMPLES = "examples"
FEATURES = "features"
CLICK_PROBABILITY = "click_probability"
EMBEDDINGS = "embeddings"

# TF Serving leaves this directory of a SavedModel alone.
DESCRIPTION_FILE = "assets.extra/amstf.json"
_VERSION = 1

Progress = Callable[[str, int, int], None]
Batch = Mapping[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class ServedPart:
    """A part of a model that is served by itself, by a signature of its own.

    Attributes:
        function: From the inputs by their keys to the outputs by their names.
        inputs: Key -> what the input looks like. Keys of a batch are those of
            `amstf.data.input_specs`, and are named in the signature as `input_names` says.
    """

    function: Callable[[Batch], Mapping[str, tf.Tensor]]
    inputs: Mapping[str, tf.TensorSpec]


def export(
    model: keras.Model,
    schema: Schema,
    path: str | os.PathLike[str],
    *,
    images: Mapping[str, AmsEmbedding] | None = None,
    parts: Mapping[str, ServedPart] | None = None,
    signatures: Iterable[str] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Writes a SavedModel with the signatures that serving needs.

    `serving_default` takes the schema's input fields by name (ids [B], lists [B, T] padded with
    -1, see `input_names`), `serve_examples` serialized `tf.train.Example`s [B] as `examples`; both
    give `click_probability` [B, 1] and, for each further label that the model predicts,
    `LABEL_probability`. For a model with images `embed_images` takes raw `features`
    [n, F] of images that are not in the table and gives `embeddings` [n, D]; with several stores
    there is one for each, `embed_images_STORE`. Parts of a model that are served alone (the towers
    of `models.TwoTower`) have signatures of their own.

    E runs once over each store; what it gives becomes a table in the model. An image that
    is not in the table has the embedding zero, as it has under `missing="zeros"`. The given model
    is afterwards what it was before.

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
        progress: Called with a store's name, the images embedded so far, and the images in all.

    Returns:
        The description that is stored as `assets.extra/amstf.json`.

    Raises:
        ExportError: If the directory is not empty, the model is not built or lives on servers, it
            has no signature of a name that is asked for, or its graph holds ops that stock
            TensorFlow does not have.
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
        >>> serve = tf.saved_model.load(directory).signatures["serving_default"]
        >>> serve(price=tf.constant([[0.0]]))["click_probability"].numpy().tolist()
        [[0.5]]
    """
    path = pathlib.Path(path)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise ExportError(f"{path} exists; export to a directory that is new or empty")
    _check_model(model)
    layers = _image_layers(model, images)
    if parts is None:
        parts = getattr(model, "served_parts", dict)()
    makers = _signatures(model, schema, layers, parts)
    chosen = list(makers) if signatures is None else _chosen(signatures, makers)
    with contextlib.ExitStack() as tables:
        for layer, store in {id(each): (each, name) for name, each in layers.items()}.values():
            table = embed_store(layer, progress and _named(progress, store))
            tables.enter_context(layer.table(*table))
        traced = {name: makers[name]() for name in chosen}
        # What the signatures read and no more: no optimizer, and each variable once. Kept here,
        # since nothing else holds the tables once the layers have let go of them.
        state = {id(v): v for signature in traced.values() for v in signature.graph.variables}
    module = tf.Module()
    module.state = list(state.values())
    description = _describe(schema, layers, traced)
    try:
        tf.saved_model.save(module, str(path), signatures=traced)
        check_stock_ops(path)
        file = path / DESCRIPTION_FILE
        file.parent.mkdir()
        file.write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return description


def input_names(schema: Schema) -> dict[str, str]:
    """Returns key in a batch -> name of the input of `serving_default`.

    They are the same but for characters that TensorFlow does not allow there, which become "_":
    the weights of `words` are `words.weight` in a batch and `words_weight` in a request.

    Raises:
        ExportError: If two keys would get one name.

    Example:
        >>> from amstf.schema import Field
        >>> field = Field("a b", "weighted_sparse", is_list=True, vocabulary_size=9)
        >>> input_names(Schema((field, Field("click", "label"))))
        {'a b': 'a_b', 'a b.weight': 'a_b_weight'}
    """
    names: dict[str, str] = {}
    for key in input_specs(schema):
        name = re.sub(r"[^A-Za-z0-9_]", "_", key)
        if not name[0].isalpha() or name == "self":
            name = f"field_{name}"
        for other, taken in names.items():
            if taken == name:
                raise ExportError(
                    f"fields {other!r} and {key!r} would both be the input {name!r} of the "
                    "signature; rename one of them in the schema"
                )
        names[key] = name
    return names


def named_outputs(
    predictions: Any, schema: Schema, labels: Sequence[str] | None = None
) -> dict[str, Any]:
    """Returns a model's predictions by the names that the outputs of signatures have.

    Args:
        predictions: [B, 1], of one label, or a dict of label -> [B, 1].
        schema: Names the labels; the first is the click.
        labels: The labels that the model predicts; the first of the schema if None.

    Raises:
        ExportError: If two labels would get one name.

    Example:
        >>> from amstf.schema import Field
        >>> schema = Schema((Field("clicked", "label"), Field("bought", "label")))
        >>> named_outputs({"clicked": 0.5, "bought": 0.1}, schema)
        {'click_probability': 0.5, 'bought_probability': 0.1}
    """
    first = schema.labels[0].name
    if not isinstance(predictions, Mapping):
        predictions = {labels[0] if labels else first: predictions}
    outputs: dict[str, Any] = {}
    for label, values in predictions.items():
        name = re.sub(r"[^A-Za-z0-9_]", "_", label) + "_probability"
        name = CLICK_PROBABILITY if label == first else name
        if name in outputs:
            raise ExportError(
                f"label {label!r} and another would both be the output {name!r} of the signature; "
                "rename one of them in the schema"
            )
        outputs[name] = values
    return outputs


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


def _image_layers(
    model: keras.Model, images: Mapping[str, AmsEmbedding] | None
) -> dict[str, AmsEmbedding]:
    if images is None:
        images = getattr(model, "image_embeddings", {})
    # A layer of another kind brings its own embeddings; the check of the ops has the last word.
    return {name: layer for name, layer in images.items() if isinstance(layer, AmsEmbedding)}


def _named(progress: Progress, store: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(store, done, total)


def _signatures(
    model: keras.Model,
    schema: Schema,
    layers: Mapping[str, AmsEmbedding],
    parts: Mapping[str, ServedPart],
) -> dict[str, Callable[[], Any]]:
    """Returns the name of each signature that the model can have -> a function that traces it."""
    labels = getattr(model, "labels", None)

    def predict(batch: Batch) -> Mapping[str, tf.Tensor]:
        return named_outputs(model(batch, training=False), schema, labels)

    whole = ServedPart(predict, input_specs(schema))
    makers: dict[str, Callable[[], Any]] = {
        SERVE_INPUTS: functools.partial(_trace_part, whole, schema),
        SERVE_EXAMPLES: functools.partial(_trace_examples, whole, schema),
    }
    for name, part in parts.items():
        makers[name] = functools.partial(_trace_part, part, schema)
    for store, layer in layers.items():
        name = EMBED_IMAGES if len(layers) == 1 else f"{EMBED_IMAGES}_{store}"
        makers[name] = functools.partial(_trace_embed_images, layer)
    return makers


def _chosen(signatures: Iterable[str], known: Iterable[str]) -> list[str]:
    chosen, known = list(signatures), list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen:
        raise ExportError(
            f"signatures names {', '.join(unknown) or 'nothing'}; the model has {', '.join(known)}"
        )
    return chosen


def _trace_part(part: ServedPart, schema: Schema) -> Any:
    of_batch = input_names(schema)
    names = {key: of_batch.get(key, key) for key in part.inputs}

    @tf.function
    def serve(**inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
        batch = {key: inputs[name] for key, name in names.items()}
        for field in schema.inputs:
            if field.max_length is not None:
                # As the reader of the training data does.
                for key in {field.name, field.weight_name} & batch.keys():
                    batch[key] = batch[key][:, : field.max_length]
        return part.function(batch)

    return serve.get_concrete_function(**{
        names[key]: tf.TensorSpec(spec.shape, spec.dtype, names[key])
        for key, spec in part.inputs.items()
    })  # fmt: skip


def _trace_examples(whole: ServedPart, schema: Schema) -> Any:
    @tf.function
    def serve_examples(examples: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return whole.function(parse_batch(examples, schema.inputs))

    return serve_examples.get_concrete_function(tf.TensorSpec([None], tf.string, EXAMPLES))


def _trace_embed_images(layer: AmsEmbedding) -> Any:
    @tf.function
    def embed_images(features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {EMBEDDINGS: layer.embed_features(features)}

    return embed_images.get_concrete_function(
        tf.TensorSpec([None, layer.store.width], tf.float32, FEATURES)
    )


def _describe(
    schema: Schema, layers: Mapping[str, AmsEmbedding], signatures: Mapping[str, Any]
) -> dict[str, Any]:
    fields = {name: key for key, name in input_names(schema).items()}

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
                "inputs": specs(inputs(signature), of_batch=_takes_a_batch(name)),
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


def _takes_a_batch(signature: str) -> bool:
    return signature != SERVE_EXAMPLES and not signature.startswith(EMBED_IMAGES)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
