"""Which training steps each worker has done. Why so: docs/design/launch.md, "Workers"."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from amstf import ops
from amstf.strategy.rounds import FIRST_SERVER
from amstf.strategy.tracing import graph_among, tensors_of


class WorkerSteps:
    """A counter of training steps for each worker, on the first parameter server.

    A worker that is started again goes on counting where it was; a step that it did not finish is
    counted by whoever runs it again.

    Args:
        num_workers: Workers of the cluster (W).
    """

    def __init__(self, num_workers: int) -> None:
        self._num_workers = num_workers
        with tf.device(FIRST_SERVER):
            # The last element is for the chief, which may run a step too.
            self._counts = tf.Variable(tf.zeros([num_workers + 1], tf.int64), trainable=False)
            self._latest = tf.Variable(tf.zeros([num_workers + 1], tf.int64), trainable=False)
        # By the graph of the step, while it is traced: whether it updates anything.
        self._updates: dict[Any, bool] = {}

    @contextlib.contextmanager
    def step(self) -> Iterator[Callable[[Any], None]]:
        """While a step is traced; gives a function that counts it, to be called with its results.

        A step that updates no variable (an evaluation) is not counted.
        """
        graph = tf.compat.v1.get_default_graph()
        self._updates[graph] = False

        def count(results: Any) -> None:
            if self._updates[graph]:
                self._count(results)

        try:
            yield count
        finally:
            del self._updates[graph]

    def note_update(self) -> None:
        """Says that the step that is being traced updates a variable."""
        graph = graph_among(self._updates)
        if graph is not None:
            self._updates[graph] = True

    def counts(self) -> np.ndarray:
        """Training steps of each worker, int64 [W]."""
        return self._counts.numpy()[:-1]

    def latest(self) -> np.ndarray:
        """How many steps all had done with the latest of each worker, int64 [W]."""
        return self._latest.numpy()[:-1]

    def _count(self, results: Any) -> None:
        # The worker waits for the results, and the server for the worker's index: one message.
        with tf.control_dependencies(tensors_of(results)), tf.device(None):
            job, task = ops.task_location()
            worker = tf.where(tf.equal(job, "worker"), task, self._num_workers)
        with tf.device(FIRST_SERVER):
            one = tf.ones([], tf.int64)
            all_done = tf.reduce_sum(self._counts.scatter_add(tf.IndexedSlices(one, worker)))
            self._latest.scatter_update(tf.IndexedSlices(all_done, worker))
