"""Exact metrics of a model on a split: all predictions first, then numpy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf import ops
from amstf.data import GROUP_INDEX, Samples, per_impression, record_errors
from amstf.errors import ConfigError
from amstf.metrics import auc, gauc, log_loss

BATCH_SIZE = 4096
"""Samples of a prediction batch: large enough to keep two cores busy, small in memory."""

VALIDATION = "validation"
"""The split that decides which checkpoint is best, and when to stop."""


def has_validation(samples: Samples) -> bool:
    """Whether there is something to validate on."""
    return VALIDATION in samples.splits and bool(samples.num_impressions(VALIDATION))


def check_has_validation(samples: Samples) -> None:
    """Raises ConfigError if there is nothing for an evaluator to evaluate."""
    if not has_validation(samples):
        raise ConfigError(
            f"{samples.directory} has no samples in a split {VALIDATION!r}, and an evaluator needs "
            "them; use --validation=none and start no evaluator"
        )


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of a split, in the order of its records.

    Attributes:
        labels: Clicks, 0 or 1, float32 [n].
        scores: Predicted click probabilities, float32 [n].
        groups: Group keys [n]; None if the schema has no group.
        items: Ids of the items shown [n]; None if the schema names no item field.
    """

    labels: np.ndarray
    scores: np.ndarray
    groups: np.ndarray | None
    items: np.ndarray | None


Scorer = Callable[[dict[str, tf.Tensor]], tf.Tensor | dict[str, tf.Tensor]]
Counts = dict[Any, int]
"""Impressions by value of a field."""


def scorer(model: keras.Model) -> Scorer:
    """Returns the model as a function that is traced once, however often it predicts."""
    return tf.function(lambda inputs: model(inputs, training=False), reduce_retracing=True)


def predict(
    score: Scorer,
    samples: Samples,
    split: str,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] | None = None,
) -> Predictions:
    """Does what `predict_labels` does, and returns the predictions of the first label."""
    label = samples.schema.labels[0].name
    return predict_labels(score, samples, split, batch_size, progress)[label]


def predict_labels(
    score: Scorer,
    samples: Samples,
    split: str,
    batch_size: int = BATCH_SIZE,
    progress: Callable[[int], None] | None = None,
    label_of: Mapping[str, str] | None = None,
) -> dict[str, Predictions]:
    """Scores all samples of a split once, in this process.

    Args:
        score: What `scorer` made of a click model whose variables this process can read.
        samples: The data set.
        split: The split.
        batch_size: Samples per batch (B).
        progress: Called with the number of samples of each batch when it is scored.
        label_of: Name of an output -> the label that it predicts; by default outputs are named as
            their labels.

    Returns:
        Output -> its predictions, for each label that the model predicts, the first of the schema
        if it gives no dict.

    Raises:
        SampleError: If a record cannot be read, naming it.
        MissingImageError: If the store lacks an image, under the policy "error".
    """
    schema = samples.schema
    first = schema.labels[0].name
    kept = [schema.group and schema.group.name, schema.item]
    columns: dict[str, list[np.ndarray]] = {name: [] for name in kept if name}
    label_of = label_of or {}
    # Of an empty split too.
    clicks: dict[str, list[np.ndarray]] = {name: [] for name in label_of or (first,)}
    scores: dict[str, list[np.ndarray]] = {name: [] for name in label_of or (first,)}

    inputs = {name for f in schema.inputs for name in (f.name, f.weight_name)} | {GROUP_INDEX}
    with record_errors(samples, split), ops.image_errors():
        for batch in samples.dataset(split, batch_size, only_inputs=False):
            predicted = score({name: value for name, value in batch.items() if name in inputs})
            if not isinstance(predicted, Mapping):
                predicted = {first: predicted}
            for name, values in predicted.items():
                scores.setdefault(name, []).append(values.numpy().ravel())
                label = label_of.get(name, name)
                clicks.setdefault(name, []).append(batch[label].numpy().ravel())
            for name, values in per_impression(batch, schema, columns).items():
                columns[name].append(values.numpy().ravel())
            if progress is not None:
                progress(len(next(iter(predicted.values()))))
    groups, items = (np.concatenate(columns[n]) if columns.get(n or "") else None for n in kept)
    return {
        label: Predictions(_joined(clicks[label]), _joined(values), groups, items)
        for label, values in scores.items()
    }


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0, np.float32), *parts])


@dataclasses.dataclass(frozen=True)
class Metrics:
    """How good predictions are. A metric that the samples do not define is nan.

    Attributes:
        impressions: Samples counted.
        clicks: Clicks among them.
        auc: Area under the ROC curve over all impressions.
        gauc: Mean of the users' AUC, weighted by impressions (arXiv 1711.06505 section 7.1).
        log_loss: Mean negative log likelihood, in nats.
        calibration: Sum of the predicted probabilities over the number of clicks; 1 is right.
        users: Users that GAUC counts: those with clicks and with impressions without a click.
        skipped_users: Users that it leaves out, having one class only.
    """

    impressions: int
    clicks: int
    auc: float
    gauc: float
    log_loss: float
    calibration: float
    users: int
    skipped_users: int

    def to_json(self) -> dict[str, int | float | None]:
        """Returns the metrics with None for nan, which JSON lacks."""
        return {
            name: None if isinstance(value, float) and math.isnan(value) else value
            for name, value in dataclasses.asdict(self).items()
        }


def measure(predictions: Predictions, where: np.ndarray | None = None) -> Metrics:
    """Computes the metrics of predictions.

    Args:
        predictions: All of them.
        where: Which to count, bool [n]; all by default.
    """
    chosen = slice(None) if where is None else where
    labels, scores = predictions.labels[chosen], predictions.scores[chosen]
    clicks = int(labels.sum())
    grouped = None
    if predictions.groups is not None:
        grouped = gauc(labels, scores, predictions.groups[chosen])
    return Metrics(
        impressions=len(labels),
        clicks=clicks,
        auc=auc(labels, scores),
        gauc=grouped.value if grouped else math.nan,
        log_loss=log_loss(labels, scores) if len(labels) else math.nan,
        calibration=float(scores.sum() / clicks) if clicks else math.nan,
        users=grouped.users if grouped else 0,
        skipped_users=grouped.skipped_users if grouped else 0,
    )


def impression_counts(samples: Samples, split: str, fields: Sequence[str]) -> list[Counts]:
    """Counts the impressions of each value of some fields in a split; reads no other field.

    Args:
        samples: The data set.
        split: The split.
        fields: Names of fields with one value a sample, such as the item or the user.

    Returns:
        For each field its counts.
    """
    counts: list[Counts] = [{} for _ in fields]
    with record_errors(samples, split):
        for batch in samples.dataset(split, BATCH_SIZE, fields=fields, only_inputs=False):
            batch = per_impression(batch, samples.schema, fields)
            for field, count in zip(fields, counts, strict=True):
                values = np.unique(batch[field].numpy(), return_counts=True)
                for value, n in zip(*values, strict=True):
                    count[value] = count.get(value, 0) + int(n)
    return counts
