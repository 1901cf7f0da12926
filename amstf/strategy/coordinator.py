"""A coordinator whose steps say which batch they read. Why so: docs/design/one_pass.md."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

Stretches = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""Paths, offsets and sizes of the records of a batch: see `amstf.ops.read_records`."""

_STRETCHES = (
    tf.TensorSpec([None], tf.string),
    tf.TensorSpec([None], tf.int64),
    tf.TensorSpec([None], tf.int64),
)


class ScheduledBatches(tf.distribute.DistributedDataset):
    """Batches that the chief names and a worker reads, in the step that uses them.

    `model.fit` takes one in place of a dataset, under `AdvancedModelServerStrategy`.

    Attributes:
        steps: By function of an iterator, what runs in its place on workers.
    """

    def __init__(self) -> None:
        self.steps: dict[Any, Callable[..., Any]] = {}

    @abc.abstractmethod
    def __iter__(self) -> Iterator[Stretches]:
        """Names the batches, on the chief; goes on where the last iterator was left."""

    @abc.abstractmethod
    def read(self, paths: tf.Tensor, offsets: tf.Tensor, sizes: tf.Tensor) -> Any:
        """Reads one batch, on the worker: what `model.fit` takes from a dataset."""


class SchedulingCoordinator(tf.distribute.coordinator.ClusterCoordinator):
    """A ClusterCoordinator that also takes `ScheduledBatches` for a dataset.

    A step that is given an iterator of them is scheduled with the name of the next batch instead,
    and reads it where it runs: again, if its worker dies and another one runs it.
    """

    def create_per_worker_dataset(self, dataset_fn: Any) -> Any:
        """As in ClusterCoordinator; `ScheduledBatches` stay on the chief."""
        if isinstance(dataset_fn, ScheduledBatches):
            return _Named(dataset_fn)
        return super().create_per_worker_dataset(dataset_fn)

    def schedule(self, fn: Any, args: Any = None, kwargs: Any = None) -> Any:
        """As in ClusterCoordinator."""
        if not (args and isinstance(args[0], _NamedIterator)):
            return super().schedule(fn, args, kwargs)
        iterator, *rest = args
        # Keras: with steps_per_execution one function runs several steps.
        count = int(rest[0]) if rest else 1
        steps = iterator.batches.steps
        if fn not in steps:
            steps[fn] = _on_worker(fn, iterator.batches.read, rest)
        return super().schedule(steps[fn], (*iterator.take(count), *rest), kwargs)


class _Named:
    """What Keras gets for a per-worker dataset."""

    def __init__(self, batches: ScheduledBatches) -> None:
        self._batches = batches

    def __iter__(self) -> _NamedIterator:
        return _NamedIterator(self._batches)


class _NamedIterator:
    def __init__(self, batches: ScheduledBatches) -> None:
        self.batches = batches
        self._names = iter(batches)

    def __iter__(self) -> _NamedIterator:
        return self

    def __next__(self) -> Any:
        raise TypeError("these batches are read on workers; schedule a function that takes them")

    def take(self, count: int) -> tuple[tf.Tensor, ...]:
        """The next batches one after the other, and how many stretches each has, int64 [count]."""
        names = [next(self._names) for _ in range(count)]
        lengths = tf.constant([len(paths) for paths, _, _ in names], tf.int64)
        parts = (
            names[0] if count == 1 else [tf.concat(part, 0) for part in zip(*names, strict=True)]
        )
        return (*parts, lengths)


class _OneBatch:
    """An iterator while a step is traced, which may be more than once: the batch each time."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch

    def __next__(self) -> Any:
        return self._batch


def _on_worker(
    fn: Any, read: Callable[..., Any], other_arguments: Sequence[tf.Tensor]
) -> Callable[..., Any]:
    """The function `fn(iterator, ...)` as one that is told which batches the iterator has."""
    lengths_of_batches = tf.TensorSpec([None], tf.int64)
    others = [tf.TensorSpec(other.shape, other.dtype) for other in other_arguments]

    @tf.function(input_signature=[*_STRETCHES, lengths_of_batches, *others])
    def step(
        paths: tf.Tensor, offsets: tf.Tensor, sizes: tf.Tensor, lengths: tf.Tensor, *others: Any
    ) -> Any:
        if not others:
            return fn(_OneBatch(read(paths, offsets, sizes)))
        # The next batch is read while one is trained.
        parts = (tf.RaggedTensor.from_row_lengths(p, lengths) for p in (paths, offsets, sizes))
        batches = tf.data.Dataset.from_tensor_slices(tuple(parts))
        return fn(iter(batches.map(read).prefetch(2)), *others)

    return step
