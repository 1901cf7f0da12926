"""Ops of synchronous rounds: entering them, and the mean of their gradients."""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from amstf.ops._load import load_library

ROUND_COUNTER_NAMES = ("rounds", "entered", "shrunk", "wait_nanoseconds", "live", "waiting")
"""What `round_counters` returns, in order."""

GRADIENT_MEAN_COUNTER_NAMES = (
    "means", "gradients", "shrunk", "dropped", "late", "wait_nanoseconds", "open",
)  # fmt: skip
"""What `gradient_mean_counters` returns, in order."""


class Round(NamedTuple):
    """What one participant knows of a synchronous round.

    Attributes:
        round: Number of the round from 0, or -1 if there is none; int64 scalar.
        num_participants: Workers in the round, int32 scalar.
        leads: Whether this worker leads the round, bool scalar.
    """

    round: tf.Tensor
    num_participants: tf.Tensor
    leads: tf.Tensor


def round_table(num_workers: int, worker_timeout_ms: float, shared_name: str) -> tf.Tensor:
    """Makes the round table of a program on the current device, or finds it by its name.

    Args:
        num_workers: Workers of the program, all taken for live at first.
        worker_timeout_ms: After this time a round closes without the workers that did not enter
            it, milliseconds.
        shared_name: Name of the table in the device's process.

    Returns:
        Resource handle, a scalar.

    Raises:
        tf.errors.InvalidArgumentError: If a table of this name differs in the others.
    """
    return load_library().ams_round_table(
        num_workers=num_workers, worker_timeout_ms=worker_timeout_ms, shared_name=shared_name
    )


def enter_round(table: tf.Tensor, worker: tf.Tensor, enabled: bool = True) -> Round:
    """Waits until all live workers have entered the next round, or its timeout.

    A worker that enters while an older entry of its own still waits replaces it; the older one
    fails with CancelledError.

    Args:
        table: Handle from `round_table`.
        worker: Index of the worker that enters, int32 scalar.
        enabled: False gives -1, 1 and True at once.

    Returns:
        The round.

    Raises:
        tf.errors.InvalidArgumentError: If there is no such worker.
        tf.errors.CancelledError: If the step was cancelled, or the worker entered again.
    """
    outputs = load_library().ams_enter_round(handle=table, worker=worker, enabled=enabled)
    return Round(outputs.round, outputs.num_participants, outputs.leads)


def round_counters(table: tf.Tensor) -> tf.Tensor:
    """Reads the counters of a round table, int64 [len(ROUND_COUNTER_NAMES)]."""
    return load_library().ams_round_counters(handle=table)


def gradient_mean(worker_timeout_ms: float, shared_name: str) -> tf.Tensor:
    """Makes the place where the gradients of one variable meet, or finds it by its name.

    Args:
        worker_timeout_ms: The leader of a round waits this long for the gradients of the others,
            milliseconds.
        shared_name: Name of the place in the device's process.

    Returns:
        Resource handle, a scalar.

    Raises:
        tf.errors.InvalidArgumentError: If a place of this name has another timeout.
    """
    return load_library().ams_gradient_mean(
        worker_timeout_ms=worker_timeout_ms, shared_name=shared_name
    )


def mean_gradient(
    mean: tf.Tensor,
    gradient: tf.Tensor | tf.IndexedSlices,
    worker: tf.Tensor,
    round: tf.Tensor,
    num_participants: tf.Tensor,
    leads: tf.Tensor,
) -> tf.Tensor | tf.IndexedSlices:
    """Hands in a worker's gradient of a variable; the leader of the round gets the mean.

    Only the leader waits, for those of all participants or the timeout. The sum is formed in the
    order of the workers, so it is the same however they arrive. A worker whose IndexedSlices lack
    a row counts as zero for it.

    Args:
        mean: Handle from `gradient_mean`.
        gradient: float32 [...], or IndexedSlices with values [n, ...] and indices [n].
        worker: Index of the worker, int32 scalar.
        round: Number of the round, int64 scalar; below 0 the mean is over this gradient alone.
        num_participants: Workers in the round, int32 scalar.
        leads: Whether this worker leads the round, bool scalar.

    Returns:
        For the leader the mean over those that handed in: [...], or IndexedSlices with each row
        once, ascending. For the others, and for a leader whose round has ended without it: [0], or
        IndexedSlices without rows.

    Raises:
        tf.errors.InvalidArgumentError: If the gradients of a round differ in shape.
        tf.errors.CancelledError: If the leader's step was cancelled.
    """
    library = load_library()
    place = {
        "worker": worker,
        "round": round,
        "num_participants": num_participants,
        "leads": leads,
    }
    if not isinstance(gradient, tf.IndexedSlices):
        return library.ams_mean_gradient(handle=mean, gradient=gradient, **place)
    outputs = library.ams_mean_sparse_gradient(
        handle=mean, values=gradient.values, indices=gradient.indices, **place
    )
    return tf.IndexedSlices(outputs.mean_values, outputs.mean_indices, gradient.dense_shape)


def gradient_mean_counters(mean: tf.Tensor) -> tf.Tensor:
    """Reads the counters of a gradient mean, int64 [len(GRADIENT_MEAN_COUNTER_NAMES)]."""
    return load_library().ams_gradient_mean_counters(handle=mean)


# These handle gradients; nothing is differentiated through them.
tf.no_gradient("AmsRoundTable")
tf.no_gradient("AmsEnterRound")
tf.no_gradient("AmsRoundCounters")
tf.no_gradient("AmsGradientMean")
tf.no_gradient("AmsMeanGradient")
tf.no_gradient("AmsMeanSparseGradient")
tf.no_gradient("AmsGradientMeanCounters")
