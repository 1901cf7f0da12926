"""Checkpoints of which most hold only the rows of dynamic tables that were touched."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

import tensorflow as tf

from amstf.dynamic.table import DynamicTable, SavedState
from amstf.errors import ConfigError


class IncrementalCheckpoints:
    """Saves by a CheckpointManager, and of dynamic tables mostly the rows touched since.

    Of `full_every` checkpoints one has all rows; each other one, an *increment*, has the rows that
    were seen in training since the one before it, and, if rows have died, which live. All else in
    the checkpoint is whole. `tf.train.Checkpoint.restore` of an increment reads the full one, and
    all between, from its directory: keep `checkpoints_to_keep` of them.

    Save when no training step runs. The first one of a process is full.

    Args:
        manager: Of checkpoints that hold the tables.
        tables: All of them.
        full_every: 1: all checkpoints are full.

    Raises:
        ConfigError: If `full_every` is less than 1.

    Example:
        >>> import tempfile
        >>> from amstf.dynamic import TableOptions
        >>> table = DynamicTable(TableOptions(width=2))
        >>> manager = tf.train.CheckpointManager(
        ...     tf.train.Checkpoint(table=table), tempfile.mkdtemp(),
        ...     max_to_keep=IncrementalCheckpoints.checkpoints_to_keep(3, full_every=10))
        >>> checkpoints = IncrementalCheckpoints(manager, [table], full_every=10)
        >>> _ = table.lookup(tf.range(100, dtype=tf.int64), training=True)
        >>> full = checkpoints.save()
        >>> _ = table.lookup(tf.constant([7, 100], tf.int64), training=True)
        >>> increment = checkpoints.save()  # Two rows.
        >>> table.clear()
        >>> _ = tf.train.Checkpoint(table=table).restore(increment)
        >>> table.counters()["rows"]
        101
    """

    def __init__(
        self,
        manager: tf.train.CheckpointManager,
        tables: Sequence[DynamicTable],
        full_every: int = 1,
    ) -> None:
        if not (type(full_every) is int and full_every >= 1):
            raise ConfigError(f"full_every is {full_every!r}; wanted a number of checkpoints >= 1")
        self._manager = manager
        self._tables = list(tables)
        self._full_every = full_every
        self._increments = 0
        self._saved: list[SavedState] = []

    @staticmethod
    def checkpoints_to_keep(whole: int, full_every: int) -> int:
        """How many to keep so that the newest `whole` can be restored."""
        return whole + full_every - 1

    def save(self, checkpoint_number: int | None = None, full: bool = False) -> str:
        """Saves a checkpoint; returns its path.

        Args:
            checkpoint_number: As of `tf.train.CheckpointManager.save`.
            full: Whether it is to be a full one, whichever is next.
        """
        now = [SavedState.of(table) for table in self._tables]
        if self._increments + 1 >= self._full_every or not self._continues(now):
            full = True
        bases = [None] * len(now) if full else self._saved
        try:
            for table, state, base in zip(self._tables, now, bases, strict=True):
                table.saving, table.base = state, base
            path = self._manager.save(checkpoint_number=checkpoint_number)
        finally:
            for table in self._tables:
                table.saving = table.base = None
        self._increments = 0 if full else self._increments + 1
        name = os.path.basename(path)
        self._saved = [dataclasses.replace(state, checkpoint=name) for state in now]
        return path

    def _continues(self, now: list[SavedState]) -> bool:
        """Whether the tables hold what was saved last, and what has happened since."""
        return bool(self._saved) and all(
            state.generation == before.generation
            for state, before in zip(now, self._saved, strict=True)
        )
