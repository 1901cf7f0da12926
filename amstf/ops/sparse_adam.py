"""Op that updates the touched rows of a table with Adam, moments and weights together."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from amstf.ops._load import load_library


def sparse_adam(
    weights: tf.Variable,
    first_moment: tf.Variable,
    second_moment: tf.Variable,
    gradient: tf.IndexedSlices,
    *,
    learning_rate: Any,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
    step: Any,
) -> tf.Operation:
    """Applies one step of lazy Adam to the rows of a gradient, on the device of the variables.

    Args:
        weights: [V, ...] float32.
        first_moment: Of the same shape and on the same device.
        second_moment: Of the same shape and on the same device.
        gradient: Values [n, ...] float32 and indices [n], each index at most once.
        learning_rate: Scalar.
        beta1: Decay of the first moment, scalar.
        beta2: Decay of the second moment, scalar.
        epsilon: Added to the root of the second moment, scalar.
        step: Number of the step, from 1, scalar.
    """
    return load_library().ams_sparse_adam(
        weights=weights.handle,
        first_moment=first_moment.handle,
        second_moment=second_moment.handle,
        gradient=gradient.values,
        rows=gradient.indices,
        learning_rate=tf.cast(learning_rate, tf.float32),
        beta1=tf.cast(beta1, tf.float32),
        beta2=tf.cast(beta2, tf.float32),
        epsilon=tf.cast(epsilon, tf.float32),
        step=tf.cast(step, tf.int64),
    )


tf.no_gradient("AmsSparseAdam")
