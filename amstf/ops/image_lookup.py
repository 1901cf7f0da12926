"""Ops that open an image store on a device and read raw image features from it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

import tensorflow as tf

from amstf.ops._load import load_library

_POLICIES = ("error", "zeros")

COUNTER_NAMES = ("images", "lookups", "ids_looked_up", "ids_missing", "lookup_nanoseconds")
"""What `image_store_counters` returns, in order."""


class StoreFile(Protocol):
    """One file of a store: where its datasets lie, in bytes."""

    @property
    def path(self) -> str:
        """Path that the device's process can open."""

    @property
    def bytes(self) -> int:
        """Size of the file."""

    @property
    def modified(self) -> int:
        """When it was last changed, nanoseconds."""

    @property
    def rows(self) -> int:
        """Images in the file."""

    @property
    def ids_offset(self) -> int:
        """Where the ids begin."""

    @property
    def features_offset(self) -> int:
        """Where the features begin."""

    @property
    def scales_offset(self) -> int:
        """Where the scales of uint8 features begin."""


def image_store(
    files: Sequence[StoreFile],
    width: int,
    dtype: tf.DType,
    num_servers: int = 1,
    server: int = 0,
) -> tf.Tensor:
    """Opens the store on the current device; every call for the same files gives the same store.

    A file that was replaced under its name is another file once the store is opened anew; who still
    holds the old store goes on reading the old file.

    The handle op is part of each function that reads, so a server that was restarted opens its
    share again by itself.

    Args:
        files: The files, with paths that the device's process can open.
        width: Features of an image (F).
        dtype: Stored type, `tf.float32`, `tf.float16` or `tf.uint8` (with scales).
        num_servers: Servers the 1,024 buckets are spread over (S).
        server: Index of the server that the current device belongs to.

    Returns:
        Resource handle, a scalar.
    """
    identity = repr(([(f.path, f.bytes, f.modified, f.rows) for f in files], width, dtype.name))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return load_library().ams_image_store(
        paths=[f.path for f in files],
        file_bytes=[f.bytes for f in files],
        rows=[f.rows for f in files],
        ids_offsets=[f.ids_offset for f in files],
        features_offsets=[f.features_offset for f in files],
        scales_offsets=[f.scales_offset for f in files] if dtype == tf.uint8 else [],
        width=width,
        dtype=dtype,
        num_servers=num_servers,
        server=server,
        shared_name=f"amstf_image_store_{digest}_{server}_of_{num_servers}",
    )


def image_lookup(
    store: tf.Tensor, ids: tf.Tensor, missing: str = "error"
) -> tuple[tf.Tensor, tf.Tensor]:
    """Reads the raw features of images, on the device that holds the store.

    Args:
        store: Handle from `image_store`.
        ids: Image ids, int64 [n]; a negative id means "no image" and gives zeros.
        missing: What an id that the store lacks does: "error" or "zeros".

    Returns:
        Features, float32 [n, F], and whether the store holds each id, bool [n].

    Raises:
        tf.errors.NotFoundError: Under "error", naming some of the ids.
    """
    if missing not in _POLICIES:
        raise ValueError(f"missing is {missing!r}; use one of {', '.join(_POLICIES)}")
    outputs = load_library().ams_image_lookup(handle=store, ids=ids, missing=missing)
    return outputs.features, outputs.found


def image_store_counters(store: tf.Tensor) -> tf.Tensor:
    """Reads the counters of a store, int64 [len(COUNTER_NAMES)]."""
    return load_library().ams_image_store_counters(handle=store)


# Raw features are data: no gradient flows into them, nor into ids.
tf.no_gradient("AmsImageStore")
tf.no_gradient("AmsImageLookup")
tf.no_gradient("AmsImageStoreCounters")
