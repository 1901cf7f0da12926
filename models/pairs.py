"""Pairs i < j of N fields, in the order (0, 1), (0, 2), ..., (N - 2, N - 1)."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf


def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the first and the second of each pair, int64 [P] each, P = N (N - 1) / 2.

    Example:
        >>> [numbers.tolist() for numbers in pairs(3)]
        [[0, 0, 1], [1, 2, 2]]
    """
    first, second = np.triu_indices(count, 1)
    return first.astype(np.int64), second.astype(np.int64)


def products_of_pairs(vectors: tf.Tensor) -> tf.Tensor:
    """Returns the inner products of all pairs of vectors.

    The product of the vectors' matrix with its transpose has each of them twice, but is one call;
    what follows takes the half above the diagonal.

    Args:
        vectors: [B, N, D], N known.

    Returns:
        [B, P].

    Example:
        >>> products_of_pairs(tf.constant([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])).numpy().tolist()
        [[11.0, 17.0, 39.0]]
    """
    return _above_diagonal(tf.matmul(vectors, vectors, transpose_b=True))


@tf.custom_gradient
def _above_diagonal(square: tf.Tensor) -> Any:
    """Takes [B, P] of [B, N, N]; its gradient is a gather, where that of `tf.gather` adds up."""
    count = square.shape[1]
    first, second = pairs(count)
    num_pairs = len(first)
    flat = tf.reshape(square, [-1, count * count])

    def backward(upstream: tf.Tensor) -> tf.Tensor:
        places = np.full(count * count, num_pairs)
        places[first * count + second] = np.arange(num_pairs)
        padded = tf.pad(upstream, [[0, 0], [0, 1]])
        return tf.reshape(tf.gather(padded, places, axis=1), [-1, count, count])

    return tf.gather(flat, first * count + second, axis=1), backward
