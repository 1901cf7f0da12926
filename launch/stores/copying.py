"""Copies images from stores to a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from amstf.store import ImageStore, ImageStoreWriter

DUPLICATES = ("error", "first", "last")
"""What happens to an id that two stores have."""

_BLOCK_BYTES = 64 << 20


def copy_images(
    writer: ImageStoreWriter,
    stores: Sequence[ImageStore],
    *,
    duplicates: str = "error",
    ids: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Copies images, bit by bit where both stores hold the same type.

    Args:
        writer: Of the store to fill; with as many features.
        stores: Those to copy from.
        duplicates: One of `DUPLICATES`; "error" leaves it to the writer to refuse them.
        ids: Only these, int64 [n]; None for all.
        progress: Called with the number of images of each piece.

    Returns:
        The number of images that were left out since another store has them.
    """
    left_out = 0
    for index, store in enumerate(stores):
        wanted = store.ids if ids is None else np.intersect1d(store.ids, ids)
        others = {"first": stores[:index], "last": stores[index + 1 :]}.get(duplicates, [])
        for other in others:
            is_double = np.isin(wanted, other.ids)
            left_out += int(is_double.sum())
            wanted = wanted[~is_double]
        for file in store.files:
            rows = np.flatnonzero(np.isin(file.ids(), wanted))
            step = max(1, _BLOCK_BYTES // (4 * file.width))
            for begin in range(0, len(rows), step):
                block = rows[begin : begin + step]
                writer.copy(file, block)
                if progress is not None:
                    progress(len(block))
    return left_out
