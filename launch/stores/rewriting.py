"""Makes stores of stores: merged, split, of another type, or a part of one."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from amstf.errors import StoreError
from amstf.store import ImageStore, ImageStoreWriter
from launch.stores.attributes import common, difference
from launch.stores.copying import copy_images
from launch.stores.rounding import RoundingLoss

_ROWS = 2048
_MEASURED = 100_000


@dataclasses.dataclass(frozen=True)
class Rewriting:
    """What to write.

    Attributes:
        out: The store to make, ending in .h5; of several files NAME-00000-of-00004.h5 and so on.
        dtype: Stored type; None for that of the first store.
        num_files: Files to spread the images over.
        ids: Only these images, int64 [n]; None for all.
        duplicates: One of `copying.DUPLICATES`.
        overwrite: Whether files that are there are replaced.
        mixed: Whether the features may have been made in different ways.
    """

    out: pathlib.Path
    dtype: str | None = None
    num_files: int = 1
    ids: np.ndarray | None = None
    duplicates: str = "error"
    overwrite: bool = False
    mixed: bool = False


def rewrite(
    stores: Sequence[ImageStore],
    wanted: Rewriting,
    progress: Callable[[int], None] | None = None,
) -> tuple[ImageStore, RoundingLoss]:
    """Writes one store of the images of several.

    Args:
        stores: To copy from.
        wanted: What to write.
        progress: Called with the number of images of each piece.

    Returns:
        The new store, and what its type costs (of at most 100,000 images of each store).

    Raises:
        StoreError: If the stores do not fit together, an id is in two of them, or one that is asked
            for in none.
    """
    first = stores[0]
    for store in stores[1:]:
        if store.width != first.width:
            raise StoreError(
                f"{store.paths[0]} holds {store.width} features an image, {first.paths[0]} "
                f"{first.width}; only stores of one width can be merged"
            )
        if not wanted.mixed and (differs := difference(first.attributes, store.attributes)):
            raise StoreError(
                f"the features of {first.paths[0]} and {store.paths[0]} cannot be compared, made "
                f"with {differs}: extract them in one way, or merge them anyhow with --mixed"
            )
    if wanted.ids is not None:
        missing = wanted.ids
        for store in stores:
            missing = store.missing(missing)
        if len(missing):
            raise StoreError(
                f"{len(missing):,} of the ids are in no store, among them "
                f"{', '.join(map(str, missing[:8].tolist()))}"
            )
    paths = ImageStoreWriter.paths_of(wanted.out, wanted.num_files)
    for path in paths:
        if path.exists() and not wanted.overwrite:
            raise StoreError(f"{path} exists; choose another --out, or replace it with --overwrite")
    dtype = wanted.dtype or first.dtype
    attributes = common([store.attributes for store in stores])
    with ImageStoreWriter(
        wanted.out, first.width, dtype, num_files=wanted.num_files, attributes=attributes
    ) as writer:
        copy_images(writer, stores, duplicates=wanted.duplicates, ids=wanted.ids, progress=progress)
        # Before the new store takes the place of one that it is made of.
        loss = _loss(stores, dtype)
    return ImageStore.open(paths), loss


def _loss(stores: Sequence[ImageStore], dtype: str) -> RoundingLoss:
    loss = RoundingLoss(dtype)
    for store in stores:
        if store.dtype == dtype:
            continue  # Copied bit by bit.
        for begin in range(0, min(_MEASURED, len(store)), _ROWS):
            loss.add(store.read(store.ids[begin : begin + _ROWS]))
    return loss
