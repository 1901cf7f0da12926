"""The images of a store that are nearest to some, by their features or by what E makes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from amstf.store import ImageStore

_BLOCK_BYTES = 64 << 20

Embed = Callable[[np.ndarray], np.ndarray]
"""Maps features float32 [n, F] to vectors float32 [n, D]."""


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """The nearest images of one.

    Attributes:
        image: Its id.
        ids: int64 [k], nearest first; itself left out.
        similarities: Cosine of the angle between the vectors, float32 [k].
    """

    image: int
    ids: np.ndarray
    similarities: np.ndarray


def nearest(
    store: ImageStore,
    images: np.ndarray,
    count: int,
    *,
    embed: Embed | None = None,
    among: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Neighbours]:
    """Finds the nearest images by cosine similarity, exactly.

    Args:
        store: The store.
        images: Ids to find neighbours for, int64 [q].
        count: Neighbours of each.
        embed: What makes the vectors that are compared; None for the features themselves.
        among: Ids of the images that can be neighbours; None for all of the store.
        progress: Called with the number of images of each piece.
    """
    vectors = _unit(_vectors(store, images, embed))
    among = store.ids if among is None else among
    best_ids = np.full((len(images), 0), 0, np.int64)
    best = np.full((len(images), 0), 0, np.float32)
    step = max(1, _BLOCK_BYTES // (4 * store.width))
    for begin in range(0, len(among), step):
        ids = among[begin : begin + step]
        similar = vectors @ _unit(_vectors(store, ids, embed)).T
        similar[np.asarray(images)[:, None] == ids[None]] = -np.inf
        best = np.concatenate([best, similar], axis=1)
        best_ids = np.concatenate([best_ids, np.broadcast_to(ids, similar.shape)], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :count]
        best = np.take_along_axis(best, order, axis=1)
        best_ids = np.take_along_axis(best_ids, order, axis=1)
        if progress is not None:
            progress(len(ids))
    found = []
    for row, image in enumerate(np.asarray(images).tolist()):
        others = np.isfinite(best[row])
        found.append(Neighbours(image, best_ids[row][others], best[row][others]))
    return found


def _vectors(store: ImageStore, ids: np.ndarray, embed: Embed | None) -> np.ndarray:
    features = store.read(ids)
    return features if embed is None else embed(features)


def _unit(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
