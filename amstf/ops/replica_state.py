"""Ops that keep a replica of E, and its gradients, on a server between two exchanges."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from amstf.ops._load import load_library


def replica_state(sync_every: int, shared_name: str) -> tf.Tensor:
    """Makes the state of a replica on the current device, or finds it by its name.

    Args:
        sync_every: Rounds between two exchanges of the replica with E.
        shared_name: Name of the state in the device's process.

    Returns:
        Resource handle, a scalar.

    Raises:
        tf.errors.InvalidArgumentError: If a state of this name has another `sync_every`.
    """
    return load_library().ams_replica_state(sync_every=sync_every, shared_name=shared_name)


def begin_round(state: tf.Tensor, is_leader: tf.Tensor) -> tf.Tensor:
    """Begins a round of a replica and tells whether to refresh it from E.

    Args:
        state: Handle from `replica_state`.
        is_leader: Whether the caller computes the round, bool scalar.

    Returns:
        True for the leader of rounds 0, sync_every, 2 * sync_every, ..., bool scalar.
    """
    return load_library().ams_begin_round(handle=state, is_leader=is_leader)


def accumulate_gradients(state: tf.Tensor, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """Keeps the gradients of a round until the next exchange.

    Args:
        state: Handle from `replica_state`.
        gradients: One float32 [...] for each variable of E, of the same shapes each time.

    Returns:
        In every sync_every-th call the sums since the last exchange, of the shapes of the
        gradients; otherwise as many empty tensors [0].

    Raises:
        tf.errors.InvalidArgumentError: If the gradients are not as large as those that were kept.
    """
    gradients = list(gradients)
    return load_library().ams_accumulate_gradients(handle=state, gradients=gradients)


def sum_present(parts: Sequence[tf.Tensor], num_elements: int) -> tf.Tensor:
    """Sums the parts that are there, in their order.

    Args:
        parts: float32 tensors, each with `num_elements` elements, or with none if it is absent.
        num_elements: Elements of a part that is there.

    Returns:
        The sum, of the shape of the first part that is there; [0] if none is.

    Raises:
        tf.errors.InvalidArgumentError: If a part has another number of elements.

    Example:
        >>> sum_present([tf.constant([1.0, 2.0]), tf.zeros([0]), tf.ones([2])], 2).numpy().tolist()
        [2.0, 3.0]
    """
    return load_library().ams_sum_present(parts=list(parts), num_elements=num_elements).sum


def is_present(gradient: tf.Tensor, num_elements: int) -> tf.Tensor:
    """Whether a gradient is there or empty, bool scalar.

    Not `tf.size(gradient) > 0`: TensorFlow's graph optimizer infers the size from the shape that
    the gradient is later brought into, and folds that to True.

    Args:
        gradient: float32, of `num_elements` elements or none.
        num_elements: Elements of a gradient that is there.

    Example:
        >>> is_present(tf.zeros([0]), 3).numpy()
        False
    """
    outputs = load_library().ams_sum_present(parts=[gradient], num_elements=num_elements)
    return outputs.is_present


# These handle gradients; nothing is differentiated through them.
tf.no_gradient("AmsReplicaState")
tf.no_gradient("AmsBeginRound")
tf.no_gradient("AmsAccumulateGradients")
tf.no_gradient("AmsSumPresent")
