"""Routing: an image id belongs to one of 1,024 buckets, a bucket to a server."""

from __future__ import annotations

from typing import Any

NUM_BUCKETS = 1024
"""As in CrossMedia: the number of servers may change without rewriting a store."""


def bucket_of(ids: Any) -> Any:
    """Returns the bucket of each id (`id & 1023`); for ints, numpy arrays and tensors.

    Example:
        >>> bucket_of(1025)
        1
    """
    return ids & (NUM_BUCKETS - 1)


def server_of(ids: Any, num_servers: int) -> Any:
    """Returns the index of the server that holds each id: bucket modulo S.

    Args:
        ids: Non-negative image ids; an int, a numpy array or a tensor.
        num_servers: Servers that hold images (S).

    Example:
        >>> server_of(1027, num_servers=2)
        1
    """
    return bucket_of(ids) % num_servers
