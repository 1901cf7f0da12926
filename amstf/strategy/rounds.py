"""Synchronous rounds: one mini-batch of every live worker, one update with the mean gradient.

Algorithm 1 of arXiv 1711.06505. Why so: docs/design/ams.md, "Synchronous rounds".
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from amstf import ops
from amstf.strategy.tracing import graph_among, tensors_of

# Holds what a program has one of, such as the table of rounds: every cluster has this server.
FIRST_SERVER = "/job:ps/replica:0/task:0/device:CPU:0"


@dataclasses.dataclass(frozen=True)
class Round:
    """The round in which a step takes part.

    Attributes:
        worker: Index of the worker, int32 scalar.
        number: Counts from 0, int64 scalar; negative for a step that is in no round.
        num_participants: Workers in the round, int32 scalar.
        leads: Whether this worker applies the round's gradients, bool scalar.
        updates: What ends with the step's update of each variable.
    """

    worker: tf.Tensor
    number: tf.Tensor
    num_participants: tf.Tensor
    leads: tf.Tensor
    updates: list[tf.Tensor] = dataclasses.field(default_factory=list)


class SyncRounds:
    """The synchronous rounds of a program.

    Args:
        program: Name of the program, unique on the servers.
        num_workers: Workers of the cluster (W).
        worker_timeout_ms: When a worker that gives no sign is left out, milliseconds.
    """

    def __init__(self, program: str, num_workers: int, worker_timeout_ms: float) -> None:
        self._program = program
        self._num_workers = num_workers
        self._worker_timeout_ms = worker_timeout_ms
        self._rounds: dict[Any, Round] = {}  # By the graph of the step, while it is traced.
        self._mean_names: dict[Any, str] = {}

    def current(self) -> Round | None:
        """The round of the step that is being traced, if it is one."""
        return self._rounds.get(graph_among(self._rounds))

    def begin(self, batch: Any) -> tf.Tensor:
        """Takes part in the next round; what is traced for the step must wait for its result.

        Args:
            batch: The mini-batch, any structure. A worker takes part once it has one: it may be
                that its data have ended.

        Returns:
            Number of the round, there once it has begun.
        """
        worker = worker_index()
        with tf.control_dependencies(tensors_of(batch)), tf.device(FIRST_SERVER):
            current = Round(worker, *ops.enter_round(self._table(), worker))
        self._rounds[tf.compat.v1.get_default_graph()] = current
        return current.number

    def end(self) -> None:
        """Ends the tracing of a step; a step without any update (an evaluation) is in no round."""
        current = self._rounds.pop(tf.compat.v1.get_default_graph(), None)
        if current is not None and not current.updates:
            attribute = tf.compat.v1.AttrValue(b=False)
            current.number.op._set_attr("enabled", attribute)

    def mean(self, gradient: Any, variable: tf.Variable) -> Any:
        """The mean of a gradient over the round, for its leader; something empty for others.

        Args:
            gradient: Of this step, a tensor or IndexedSlices.
            variable: What it belongs to; call this on the variable's device.
        """
        current = self.current()
        assert current is not None
        name = self._mean_names.setdefault(variable.ref(), f"{len(self._mean_names)}")
        handle = ops.gradient_mean(
            self._worker_timeout_ms, f"amstf_gradient_mean_{self._program}_{name}"
        )
        return ops.mean_gradient(
            handle,
            gradient,
            worker=current.worker,
            round=current.number,
            num_participants=current.num_participants,
            leads=current.leads,
        )

    def counters(self) -> dict[str, int]:
        """What the table of rounds has counted, named as in `amstf.ops.ROUND_COUNTER_NAMES`."""
        with tf.device(FIRST_SERVER):
            values = ops.round_counters(self._table()).numpy()
        return dict(zip(ops.ROUND_COUNTER_NAMES, map(int, values), strict=True))

    def _table(self) -> tf.Tensor:
        return ops.round_table(
            self._num_workers, self._worker_timeout_ms, f"amstf_rounds_{self._program}"
        )


def worker_index() -> tf.Tensor:
    """Index of the worker that runs the step, int32 scalar; -1 on the chief."""
    with tf.device(None):
        job, task = ops.task_location()
    return tf.where(tf.equal(job, "worker"), task, -1)
