"""A Keras callback that removes rows of dynamic tables between epochs."""

from __future__ import annotations

import time
from typing import Any

import tf_keras as keras

from amstf import ops
from amstf.errors import ConfigError
from amstf.layers.dynamic_embedding import dynamic_embeddings

_UNSEEN_SECONDS = "unseen_seconds"
POLICIES = (_UNSEEN_SECONDS, *ops.EVICTION_POLICIES)


def evict_rows(model: keras.layers.Layer, policy: str, limit: float) -> int:
    """Removes rows of all dynamic tables of a model; call it when no training step runs.

    Args:
        model: The model.
        policy: One of `EvictRows`.
        limit: See there.

    Returns:
        How many rows were removed.
    """
    if policy == _UNSEEN_SECONDS:
        policy, limit = "unseen_since", max(0.0, time.time() - limit)
    return sum(layer.table.evict(policy, limit) for layer in dynamic_embeddings(model))


class EvictRows(keras.callbacks.Callback):
    """Removes rows of the dynamic tables of a model at the end of each epoch.

    An epoch's end is where all workers have done their steps; let epochs be short. Several
    callbacks work one after the other.

    Args:
        policy: "unseen_seconds": rows that were not seen for `limit` seconds; or a policy of
            `DynamicTable.evict`: "unseen_steps", "unseen_since", "small_norm", "least_recent",
            "least_frequent".
        limit: See there.
        every: Epochs from one time to the next.

    Raises:
        ConfigError: If there is no such policy, or the limit is negative.

    Attributes:
        evicted: Rows removed so far; `logs["rows_evicted"]` of an epoch has those of this epoch.

    Example:
        >>> a_week = EvictRows("unseen_seconds", 7 * 24 * 3600)
        >>> at_most = EvictRows("least_recent", 10_000_000)  # on each server
        >>> a_week.evicted
        0
    """

    # Keras runs callbacks of a ParameterServerStrategy's model only on the chief, with these logs.
    _supports_tf_logs = True

    def __init__(self, policy: str, limit: float, every: int = 1) -> None:
        super().__init__()
        if policy not in POLICIES:
            raise ConfigError(f"policy is {policy!r}; use {', '.join(POLICIES)}")
        if not (isinstance(limit, (int, float)) and limit >= 0):
            raise ConfigError(f"limit is {limit!r}; wanted 0 or more")
        if not (type(every) is int and every >= 1):
            raise ConfigError(f"every is {every!r}; wanted a number of epochs >= 1")
        self.policy = policy
        self.limit = limit
        self.every = every
        self.evicted = 0

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Removes rows."""
        if (epoch + 1) % self.every:
            return
        evicted = evict_rows(self.model, self.policy, self.limit)
        self.evicted += evicted
        if logs is not None:
            logs["rows_evicted"] = logs.get("rows_evicted", 0) + evicted
