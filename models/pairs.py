"""Pairs i < j of N fields, in the order (0, 1), (0, 2), ..., (N - 2, N - 1)."""

from __future__ import annotations

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

    The product of the vectors' matrix with its transpose has each of them twice, but is one call.
    Of each of its rows the part right of the diagonal is kept: pieces of rows, by one split and one
    concatenation, are faster than a gather of single numbers, most so backwards.

    Args:
        vectors: [B, N, D], N known.

    Returns:
        [B, P].

    Example:
        >>> products_of_pairs(tf.constant([[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]])).numpy().tolist()
        [[11.0, 17.0, 39.0]]
    """
    count = vectors.shape[1]
    flat = tf.reshape(tf.matmul(vectors, vectors, transpose_b=True), [-1, count * count])
    sizes = [size for i in range(count) for size in (i + 1, count - 1 - i)]
    return tf.concat(tf.split(flat, sizes, axis=1)[1::2], axis=1)
