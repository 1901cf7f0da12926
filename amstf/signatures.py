"""Signatures of an export: what they are called, what they take and how they are traced."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from amstf.data import input_specs, parse_batch
from amstf.errors import ExportError
from amstf.layers import AmsEmbedding
from amstf.schema import Schema

SERVE_EXAMPLES = "serving_default"
PREDICT = "predict"
SCORE_ADS = "score_ads"
EMBED_IMAGES = "embed_images"
EXAMPLES = "examples"
FEATURES = "features"
CLICK_PROBABILITY = "click_probability"
EMBEDDINGS = "embeddings"
EMBEDDING_SUFFIX = ".embedding"

Batch = Mapping[str, tf.Tensor]
Widths = Mapping[str, int]
"""Name of an image field whose embeddings come with the request -> floats of each (D)."""


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


def embedding_name(field_name: str) -> str:
    """Returns the key of an image field's embeddings in a batch that brings them along.

    Example:
        >>> embedding_name("ad_image")
        'ad_image.embedding'
    """
    return field_name + EMBEDDING_SUFFIX


def input_names(schema: Schema, given: Iterable[str] = ()) -> dict[str, str]:
    """Returns key in a batch -> name of the input of `predict`.

    They are the same but for characters that TensorFlow does not allow there, which become "_":
    the weights of `words` are `words.weight` in a batch and `words_weight` in a request.

    Args:
        schema: The fields of a batch.
        given: Names of image fields whose embeddings come along.

    Raises:
        ExportError: If two keys would get one name.

    Example:
        >>> from amstf.schema import Field
        >>> field = Field("a b", "weighted_sparse", is_list=True, vocabulary_size=9)
        >>> input_names(Schema((field, Field("click", "label"))))
        {'a b': 'a_b', 'a b.weight': 'a_b_weight'}
    """
    names: dict[str, str] = {}
    for key in (*input_specs(schema), *map(embedding_name, given)):
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


def with_embeddings(part: ServedPart, widths: Widths) -> ServedPart:
    """Returns a part that also takes the embeddings of its image fields, [B, (T,) D] each."""
    inputs = dict(part.inputs)
    for key, spec in part.inputs.items():
        if key in widths:
            shape = spec.shape.concatenate([widths[key]])
            inputs[embedding_name(key)] = tf.TensorSpec(shape, tf.float32)
    return dataclasses.replace(part, inputs=inputs)


def trace_part(part: ServedPart, schema: Schema, widths: Widths) -> Any:
    """Traces the signature of a part, whose inputs are tensors by name."""
    of_batch = input_names(schema, widths)
    names = {key: of_batch.get(key, key) for key in part.inputs}

    @tf.function
    def serve(**inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
        batch = {key: inputs[name] for key, name in names.items()}
        for field in schema.inputs:
            if field.max_length is not None:
                # As the reader of the training data does.
                keys = {field.name, field.weight_name, embedding_name(field.name)}
                for key in keys & batch.keys():
                    batch[key] = batch[key][:, : field.max_length]
        return part.function(batch)

    return serve.get_concrete_function(**{
        names[key]: tf.TensorSpec(spec.shape, spec.dtype, names[key])
        for key, spec in part.inputs.items()
    })  # fmt: skip


def trace_examples(whole: ServedPart, schema: Schema, widths: Widths) -> Any:
    """Traces the signature that takes serialized `tf.train.Example`s."""

    @tf.function
    def serve_examples(examples: tf.Tensor) -> Mapping[str, tf.Tensor]:
        batch = parse_batch(examples, schema.inputs)
        return whole.function({**batch, **_parse_embeddings(examples, schema, batch, widths)})

    return serve_examples.get_concrete_function(tf.TensorSpec([None], tf.string, EXAMPLES))


def _parse_embeddings(
    examples: tf.Tensor, schema: Schema, batch: Batch, widths: Widths
) -> dict[str, tf.Tensor]:
    """Reads embeddings: D floats of an image, one after the other of a list; zeros where none."""
    if not widths:
        return {}
    spec = {
        embedding_name(name): tf.io.RaggedFeature(tf.float32, row_splits_dtype=tf.int64)
        for name in widths
    }
    parsed = tf.io.parse_example(examples, spec)
    result = {}
    for name, width in widths.items():
        shape = tf.shape(batch[name], tf.int64)
        shape = tf.concat([shape, [width]], axis=0)
        floats = tf.reduce_prod(shape[1:])
        flat = parsed[embedding_name(name)].to_tensor(
            0.0, shape=tf.stack([tf.constant(-1, tf.int64), floats])
        )
        result[embedding_name(name)] = tf.reshape(flat, shape)
    return result


def trace_embed_images(layer: AmsEmbedding) -> Any:
    """Traces the signature that takes raw features of images."""

    @tf.function
    def embed_images(features: tf.Tensor) -> dict[str, tf.Tensor]:
        return {EMBEDDINGS: layer.embed_features(features)}

    return embed_images.get_concrete_function(
        tf.TensorSpec([None, layer.store.width], tf.float32, FEATURES)
    )


def takes_a_batch(signature: str) -> bool:
    """Whether a signature's inputs are fields by name."""
    return signature != SERVE_EXAMPLES and not signature.startswith(EMBED_IMAGES)
