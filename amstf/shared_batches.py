"""Batches of a split that workers share: each once in a pass, for `model.fit`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf

from amstf import ops
from amstf.data import Samples
from amstf.data.batch_order import SHUFFLE_BLOCK, BatchOrder
from amstf.data.samples_reader import split_labels
from amstf.strategy import ScheduledBatches

_STRETCHES = (
    tf.TensorSpec([None], tf.string),
    tf.TensorSpec([None], tf.int64),
    tf.TensorSpec([None], tf.int64),
)


class SharedBatches(ScheduledBatches):
    """The batches of a split, each once in a pass, whichever worker trains it.

    Under `AdvancedModelServerStrategy` it takes the place of a dataset in `model.fit`, also as
    `validation_data`, with `steps_per_epoch=batches.steps_per_pass`. A worker that is fast trains
    more batches; the batch of a worker that dies is trained by another. Without a cluster give
    `model.fit` what `local` returns: the same batches in the same order.

    Args:
        samples: The data set, at a path that chief and workers see.
        split: Name of the split.
        batch_size: Samples per batch (B); the last of a pass may be smaller. Where samples are
            stored in groups, a batch has equally many groups, B samples on average.
        shuffle: Whether each pass has a random order of its own.
        seed: Of these orders.
        block_size: Samples that shuffling keeps together.
        fields: Names of the input fields to parse; all if None.
        labels: Names of the labels to give; all of the schema if None.
        position: Batches to leave out at the beginning: those a checkpoint has seen.

    Attributes:
        num_records: Records of a pass: samples, or groups of them.
        num_impressions: Samples of a pass (N).
        steps_per_pass: Batches of a pass.
        position: Number of the next batch, counted from the first of the first pass.

    Raises:
        SampleError: If an argument is out of range or names nothing, or the data are damaged.

    Example (needs a running cluster; `batches.local()` does not):
        batches = amstf.SharedBatches(amstf.Samples.open("data"), "train", 256)
        model.fit(batches, steps_per_epoch=batches.steps_per_pass, epochs=2)
    """

    def __init__(
        self,
        samples: Samples,
        split: str,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        block_size: int = SHUFFLE_BLOCK,
        fields: Iterable[str] | None = None,
        labels: Iterable[str] | None = None,
        position: int = 0,
    ) -> None:
        super().__init__()
        self._order = BatchOrder(
            samples, split, batch_size, shuffle=shuffle, seed=seed, block_size=block_size
        )
        self._samples, self._split = samples, split
        self._labels = samples.label_fields(labels)
        self._fields = samples.input_fields(fields)
        self.position = position

    @property
    def num_records(self) -> int:
        """Records of a pass."""
        return self._order.num_records

    @property
    def num_impressions(self) -> int:
        """Samples of a pass (N)."""
        return self._order.num_impressions

    @property
    def steps_per_pass(self) -> int:
        """Batches of a pass."""
        return self._order.steps_per_pass

    def samples_before(self, position: int) -> int:
        """Returns how many samples the batches before a position hold."""
        return self._order.impressions_before(position)

    @property
    def element_spec(self) -> Any:
        """Shapes and types of a batch, as of a dataset."""
        return tf.function(self.read, _STRETCHES).get_concrete_function().structured_outputs

    def __iter__(self) -> Iterator[tuple[tf.Tensor, tf.Tensor, tf.Tensor]]:
        """Goes on at `position`, for ever."""
        while True:
            stretches = self._order.batch(self.position)
            self.position += 1
            yield (
                tf.constant(stretches.paths, tf.string),
                tf.constant(stretches.offsets),
                tf.constant(stretches.sizes),
            )

    def read(self, paths: tf.Tensor, offsets: tf.Tensor, sizes: tf.Tensor) -> Any:
        """Reads one batch.

        Args:
            paths: File of each stretch of records, string [r].
            offsets: Where it begins, bytes, int64 [r].
            sizes: Its length, bytes, int64 [r].

        Returns:
            Inputs by name, as `Samples.dataset` gives them, and the label [B, 1], or of several
            labels a dict of name -> [B, 1].
        """
        records = ops.read_records(paths, offsets, sizes)
        batch = self._samples.parse(self._split, records, (*self._fields, *self._labels))
        return split_labels(batch, self._labels)

    def local(self) -> tf.data.Dataset:
        """Returns the batches from `position` on as a dataset for one process, without end.

        Reading runs ahead, so `position` is not moved: set it to what was trained.
        """
        order, first = self._order, self.position

        def stretches() -> Iterator[tuple[Any, Any, Any]]:
            step = first
            while True:
                one = order.batch(step)
                yield one.paths, one.offsets, one.sizes
                step += 1

        names = tf.data.Dataset.from_generator(stretches, output_signature=_STRETCHES)
        batches = names.map(self.read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        return batches.prefetch(tf.data.AUTOTUNE)
