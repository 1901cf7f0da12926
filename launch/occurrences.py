"""Counts how often each id occurs in the training data, once, when a run begins."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tf_keras as keras

from amstf.data import Samples, record_errors

_BATCH = 4096
_SAY_EVERY_S = 10.0


def count(model: keras.Model, samples: Samples, split: str) -> int:
    """Fills the counts that a model's `IdRegularization` goes by, if it has one that needs them.

    The counts are weights of the model, so a checkpoint has them and a run that goes on does not
    count again. On a cluster the chief counts, and each server gets the counts of its own rows.

    Args:
        model: With its variables, in any strategy or none.
        samples: The data set.
        split: Which part to count.

    Returns:
        Samples counted; 0 if nothing was to count.
    """
    layer = model.id_embedding
    if not layer.occurrences:
        return 0
    fields = [f.name for f in layer.fields if f.num_ids and f.table_name in layer.occurrences]
    total = samples.num_impressions(split)
    batches = samples.dataset(split, _BATCH, ragged=True, fields=fields)
    with record_errors(samples, split):
        layer.count(_with_progress(batches, total))
    return total


def _with_progress(batches: tf.data.Dataset, total: int) -> Iterator[dict[str, Any]]:
    done, said = 0, time.monotonic()
    for inputs, labels in batches:
        yield inputs
        first = labels if tf.is_tensor(labels) else next(iter(labels.values()))
        done += int(first.shape[0])
        if time.monotonic() - said > _SAY_EVERY_S:
            said = time.monotonic()
            print(f"counting ids: {done:,} of {total:,} samples", flush=True)
