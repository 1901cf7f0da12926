"""Compares an export with the model it was made of, in a process that never saw this project."""

from __future__ import annotations

import base64
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.data import Samples, impressions_of, parse_batch, record_errors
from amstf.errors import ExportError
from amstf.ops import image_errors
from amstf.schema import IMAGE, Schema
from amstf.signatures import (
    EMBEDDING_SUFFIX,
    EXAMPLES,
    PREDICT,
    SERVE_EXAMPLES,
    Batch,
    embedding_name,
    input_names,
    named_outputs,
)

TOLERANCE = {"float32": 1e-5, "float16": 5e-3}
"""Greatest difference of a number between the model and its export, by the type of the table of
embeddings; relative above 1. A float16 has 11 bits: an embedding is off by up to 5e-4 of itself."""

_BATCH = 256
_TIMEOUT_SECONDS = 600


def first_records(samples: Samples, split: str, count: int) -> list[bytes]:
    """Reads the first samples of a split, serialized, those of groups one by one."""
    with record_errors(samples, split):
        dataset = tf.data.TFRecordDataset(samples.files(split)).take(count)
        records = list(dataset.as_numpy_iterator())
    if samples.is_grouped(split):
        records = [example for record in records for example in impressions_of(record)]
    return records[:count]


def check_export(
    export: str | os.PathLike[str],
    model: keras.Model,
    schema: Schema,
    examples: list[bytes],
    signatures: Iterable[str] = (PREDICT, SERVE_EXAMPLES),
    *,
    beside: str | None = None,
    tolerance: float = TOLERANCE["float32"],
) -> dict[str, float]:
    """Scores samples with the model here and with the export elsewhere.

    Args:
        export: The SavedModel.
        model: The model it was made of.
        schema: The fields of a batch.
        examples: Serialized samples; the first one is scored alone too.
        signatures: Signatures of the export; of those that embed new images none is asked.
        beside: Type of the floats of the table that is beside the export; the requests then bring
            embeddings as that table has them. None if the table is inside.
        tolerance: Greatest difference that is no error.

    Returns:
        Signature -> greatest difference of a number that it gives: absolute, of numbers greater
        than 1 relative.

    Raises:
        ExportError: If a difference is greater than `tolerance`, or the export cannot be loaded.
        MissingImageError: If the store lacks an image and the model's policy is "error".
    """
    if not examples:
        return {}
    parts = [examples[:1]] + [examples[k : k + _BATCH] for k in range(0, len(examples), _BATCH)]
    wanted: list[np.ndarray] = []
    questions: list[tuple[str, dict[str, Any]]] = []
    for part in parts:
        for name, inputs, want in _answers(model, schema, part, list(signatures), beside):
            questions.append((name, inputs))
            wanted.append(np.concatenate([want[key] for key in sorted(want)], axis=-1))
    differences: dict[str, float] = {}
    for (name, _), want, got in zip(questions, wanted, _ask(export, questions), strict=True):
        worst = float((np.abs(got - want) / np.maximum(1, np.abs(want))).max())
        # A NaN is a difference too, and max() would lose it.
        differences[name] = max(differences.get(name, 0.0), worst if worst == worst else np.inf)
    for name, difference in differences.items():
        if difference > tolerance:
            raise ExportError(
                f"what signature {name!r} gives differs from the model's by up to "
                f"{difference:.1e} in {len(examples)} samples; wanted at most {tolerance:.0e}"
            )
    return differences


def _answers(
    model: keras.Model,
    schema: Schema,
    examples: list[bytes],
    signatures: list[str],
    beside: str | None,
) -> Iterator[tuple[str, dict[str, Any], dict[str, np.ndarray]]]:
    """Yields signatures, inputs to ask them about, and the outputs that the model has for these."""
    batch = parse_batch(tf.constant(examples), schema.inputs)
    embeddings: dict[str, tf.Tensor] = {}
    if {SERVE_EXAMPLES, PREDICT} & set(signatures):
        with image_errors():
            predictions = model.predict(batch, batch_size=len(examples), verbose=0)
        want = named_outputs(predictions, schema)
    if beside:
        embeddings = embeddings_of(model, schema, batch, beside)
    names = input_names(schema, [key.removesuffix(EMBEDDING_SUFFIX) for key in embeddings])
    if SERVE_EXAMPLES in signatures:
        yield SERVE_EXAMPLES, {EXAMPLES: _with_floats(examples, embeddings)}, want
    if PREDICT in signatures:
        asked = {**batch, **embeddings}
        yield PREDICT, {names[key]: value.numpy() for key, value in asked.items()}, want
    for name, part in getattr(model, "served_parts", dict)().items():
        if name not in signatures:
            continue
        inputs = {}
        for key, spec in part.inputs.items():
            # What is no field of a sample is made up: the embeddings that a tower gave.
            inputs[key] = batch[key] if key in batch else _made_up(spec)
            if key in batch and spec.shape[0] == 1:  # Of one user, who has many ads.
                inputs[key] = batch[key][:1]
        with image_errors():
            want = {key: value.numpy() for key, value in part.function(inputs).items()}
        for key in list(inputs):
            if (given := embeddings.get(embedding_name(key))) is not None:
                inputs[embedding_name(key)] = given[: len(inputs[key])]
        yield name, {names.get(key, key): value.numpy() for key, value in inputs.items()}, want


def request_batch(
    model: keras.Model, schema: Schema, examples: list[bytes], beside: str | None
) -> dict[str, tf.Tensor]:
    """Returns the batch of some samples, with embeddings if the table is beside the export."""
    batch = parse_batch(tf.constant(examples), schema.inputs)
    return {**batch, **embeddings_of(model, schema, batch, beside)} if beside else batch


def embeddings_of(
    model: keras.Model, schema: Schema, batch: Batch, dtype: str
) -> dict[str, tf.Tensor]:
    """Returns what a request brings along if a table of `dtype` is beside the export."""
    layers = getattr(model, "image_embeddings", {})

    def rounded(values: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.cast(values, dtype), tf.float32)

    with image_errors():
        return {
            embedding_name(field.name): rounded(layers[field.store_name](batch[field.name]))
            for field in schema.of_kind(IMAGE)
            if field.store_name in layers
        }


def _with_floats(examples: list[bytes], embeddings: Batch) -> np.ndarray:
    """Adds the embeddings to serialized samples."""
    added = {key: values.numpy().reshape(len(examples), -1) for key, values in embeddings.items()}
    result = []
    for k, content in enumerate(examples):
        example = tf.train.Example.FromString(content)
        for key, rows in added.items():
            example.features.feature[key].float_list.value.extend(rows[k])
        result.append(example.SerializeToString())
    return np.array(result, object)


def _made_up(spec: tf.TensorSpec) -> tf.Tensor:
    return tf.random.stateless_normal([size or 3 for size in spec.shape], [1, 2], dtype=spec.dtype)


def _ask(
    export: str | os.PathLike[str], questions: list[tuple[str, dict[str, Any]]]
) -> list[np.ndarray]:
    script = pathlib.Path(__file__).with_name("reload_check.py")
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    with tempfile.TemporaryDirectory(prefix="amstf-export-") as elsewhere:
        ask, answer = pathlib.Path(elsewhere, "questions"), pathlib.Path(elsewhere, "answers")
        path = os.path.abspath(export)
        write_questions(ask, [(path, *question) for question in questions])
        command = [
            sys.executable,
            "-I",
            str(script),
            str(ask),
            str(answer),
        ]
        try:
            done = subprocess.run(
                command,
                cwd=elsewhere,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"{export} could not be scored in {_TIMEOUT_SECONDS} s") from error
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            raise ExportError(f"another process cannot load and score {export}: {lines[-1]}")
        return read_answers(answer)


def write_questions(
    path: pathlib.Path, questions: list[tuple[str, str, dict[str, np.ndarray]]]
) -> None:
    """Writes [(export, signature, {input: array})] as `reload_check.py` reads it."""
    asked = []
    for export, name, inputs in questions:
        tensors = {key: tf.constant(value) for key, value in inputs.items()}
        coded = {
            key: (t.dtype.name, base64.b64encode(tf.io.serialize_tensor(t).numpy()).decode())
            for key, t in tensors.items()
        }
        asked.append((export, name, coded))
    path.write_text(json.dumps(asked), encoding="ascii")


def read_answers(path: pathlib.Path) -> list[np.ndarray]:
    """Reads what `reload_check.py` wrote: for each question its outputs, side by side by name."""
    with np.load(path) as answers:
        return [answers[name] for name in answers.files]
