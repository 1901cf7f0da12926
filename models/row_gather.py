"""A gather of rows whose gradient is dense."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


@tf.custom_gradient
def take_rows(rows: tf.Tensor, positions: tf.Tensor) -> Any:
    """Gathers rows [U, ...] at positions [N], to [N, ...]; its gradient is dense.

    `tf.gather` would hand IndexedSlices to what made the rows: a table's own gather, or a kernel,
    which then warns that it has to convert them.
    """

    def backward(upstream: tf.Tensor) -> tuple[tf.Tensor, None]:
        return tf.math.unsorted_segment_sum(upstream, positions, tf.shape(rows)[0]), None

    return tf.gather(rows, positions), backward
