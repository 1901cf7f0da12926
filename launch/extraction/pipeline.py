"""Decodes images with several threads, ahead of the backbone."""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from launch.extraction.decoding import BrokenImageError, decode

_BATCHES_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class Broken:
    """An image that cannot be used, and why."""

    id: int
    path: str
    reason: str


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some images, decoded.

    Attributes:
        ids: int64 [n].
        images: uint8 [n, size, size, 3].
        broken: Those of the batch that could not be decoded; not among the ids.
    """

    ids: np.ndarray
    images: np.ndarray
    broken: list[Broken]


def decoded_batches(
    ids: Sequence[int],
    paths: Sequence[str],
    *,
    size: int,
    fit: str,
    batch_size: int,
    threads: int,
) -> Iterator[Batch]:
    """Yields all images in order, in batches of at most `batch_size`.

    Pillow decodes and resizes outside of Python's lock, so threads are enough. Three batches are
    being decoded or wait at any time: that bounds the memory.

    Args:
        ids: Image ids.
        paths: Their files.
        size: Height and width of the result.
        fit: See `decoding.decode`.
        batch_size: Files of a batch.
        threads: Files decoded at a time.
    """
    read = functools.partial(_read, size=size, fit=fit)
    with ThreadPoolExecutor(threads, "decode") as pool:
        waiting: collections.deque[Future[np.ndarray | Broken]] = collections.deque()
        tasks = zip(ids, paths, strict=True)

        def submit(count: int) -> None:
            for image_id, path in itertools.islice(tasks, count):
                waiting.append(pool.submit(read, int(image_id), path))

        try:
            submit(_BATCHES_AHEAD * batch_size)
            done = 0
            while waiting:
                count = min(batch_size, len(waiting))
                results = [waiting.popleft().result() for _ in range(count)]
                submit(count)
                good = [(i, r) for i, r in enumerate(results) if not isinstance(r, Broken)]
                broken = [r for r in results if isinstance(r, Broken)]
                images = np.empty((len(good), size, size, 3), np.uint8)
                for row, (_, image) in enumerate(good):
                    images[row] = image
                batch_ids = np.array([ids[done + i] for i, _ in good], np.int64)
                yield Batch(batch_ids, images, broken)
                done += count
        finally:
            # An interrupt must not wait for what is decoded ahead.
            pool.shutdown(wait=False, cancel_futures=True)


def _read(image_id: int, path: str, *, size: int, fit: str) -> np.ndarray | Broken:
    try:
        return decode(path, size, fit)
    except BrokenImageError as error:
        return Broken(image_id, path, str(error))
