"""Rows of a table in a model: taken by position, and with a gradient for the table's anchor."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


@tf.custom_gradient
def take_rows(rows: tf.Tensor, positions: tf.Tensor) -> Any:
    """Gathers rows [n, D] by their positions [...]; its gradient is dense.

    `tf.gather` would hand IndexedSlices of the few distinct rows to what made them, and TensorFlow
    then warns that it has to convert them.
    """

    def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        return tf.math.unsorted_segment_sum(upstream, positions, tf.shape(rows)[0]), None

    return tf.gather(rows, positions), backward


@tf.custom_gradient
def attach(anchor: tf.Tensor, ids: tf.Tensor, rows: tf.Tensor) -> Any:
    """Passes on rows of a dynamic table; their gradient goes, with the ids, to its anchor.

    Args:
        anchor: The anchor of the table, a scalar that was read from its variable.
        ids: int64 [n].
        rows: float32 [n, D].
    """
    del anchor

    def backward(upstream: tf.Tensor) -> tuple[tf.IndexedSlices, None, None]:
        return tf.IndexedSlices(upstream, ids), None, None

    return tf.identity(rows), backward
