"""Ways besides `SharedBatches` for workers to share the samples of a split, as input pipelines.

What came of them: docs/design/one_pass.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import tensorflow as tf

from amstf import Samples
from amstf.data.batch_order import BatchOrder, Stretches

SHARED = "shared batches"
SERVICE_FILES = "tf.data service, files"
SERVICE_BATCHES = "tf.data service, batches"
DISPENSER = "dispenser on a server"

Parse = Callable[[tf.Tensor], Any]
"""From records, string [B], to a batch."""

Read = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], Any]
"""As `SharedBatches.read`."""


def files(
    samples: Samples, split: str, batch_size: int, parse: Parse, *, window: int, repeat: bool
) -> tf.data.Dataset:
    """For tf.data service, which hands out the files: as `Samples.dataset` with shuffling.

    Args:
        samples: The data set.
        split: Name of the split.
        batch_size: Samples per batch (B).
        parse: Makes a batch of records.
        window: Records that shuffling holds.
        repeat: Whether to begin again at the end, for ever.
    """
    paths = tf.data.Dataset.from_tensor_slices(samples.files(split))
    # A worker takes as many files as it has open: more, and the first has them all.
    records = paths.interleave(
        tf.data.TFRecordDataset,
        cycle_length=2,
        block_length=16,
        num_parallel_calls=min(2, os.cpu_count() or 1),
        deterministic=False,
    ).shuffle(window)
    if repeat:
        records = records.repeat()
    batches = records.batch(batch_size).map(parse, num_parallel_calls=tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def batches(
    samples: Samples, split: str, batch_size: int, read: Read, *, repeat: bool
) -> tf.data.Dataset:
    """For tf.data service, which hands out what the chief would say: where a batch's records lie.

    Args:
        samples: The data set.
        split: Name of the split.
        batch_size: Samples per batch (B).
        read: Reads a batch.
        repeat: Whether to begin again at the end, for ever.
    """
    stretches = tf.data.Dataset.from_tensor_slices(_stretches(samples, split, batch_size))
    if repeat:
        stretches = stretches.repeat()
    return stretches.map(read, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def dispensed(
    samples: Samples,
    split: str,
    batch_size: int,
    read: Read,
    counter: tf.Variable,
    *,
    repeat: bool,
) -> tf.data.Dataset:
    """A pipeline that asks a parameter server which batch is next, in the process that runs it.

    Args:
        samples: The data set.
        split: Name of the split.
        batch_size: Samples per batch (B).
        read: Reads a batch.
        counter: Batches handed out, int64 scalar, made in the strategy's scope. It is not set back:
            a pass ends when it has come to the number of batches.
        repeat: Whether to begin again at the end, for ever.
    """
    table = _stretches(samples, split, batch_size)
    steps = table[0].nrows()

    def next_number(_: tf.Tensor) -> tf.Tensor:
        with tf.device(counter.device):
            # One kernel, under the variable's lock: no two get the same.
            return tf.raw_ops.ResourceCountUpTo(
                resource=counter.handle, limit=tf.int64.max, T=tf.int64
            )

    numbers = tf.data.Dataset.range(tf.int64.max).map(next_number)
    if not repeat:
        numbers = numbers.take_while(lambda number: number < steps)
    return numbers.map(
        lambda number: read(*(part[number % steps] for part in table)),
        num_parallel_calls=tf.data.AUTOTUNE,
    ).prefetch(tf.data.AUTOTUNE)


def _stretches(samples: Samples, split: str, batch_size: int) -> tuple[tf.RaggedTensor, ...]:
    """Paths, offsets and sizes of each batch of a pass."""
    order = BatchOrder(samples, split, batch_size)
    of_batches: list[Stretches] = [order.batch(step) for step in range(order.steps_per_pass)]
    return tuple(
        tf.ragged.constant(
            [list(getattr(one, name)) for one in of_batches], dtype, row_splits_dtype=tf.int64
        )
        for name, dtype in (("paths", tf.string), ("offsets", tf.int64), ("sizes", tf.int64))
    )
