"""Decodes images with several threads, ahead of the backbone."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

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
    with ThreadPoolExecutor(threads, "decode") as pool:
        begins = iter(range(0, len(ids), batch_size))
        waiting: collections.deque[_Decoding] = collections.deque()

        def start(count: int) -> None:
            for begin in itertools.islice(begins, count):
                part = slice(begin, begin + batch_size)
                waiting.append(_Decoding(pool, ids[part], paths[part], size, fit))

        try:
            start(_BATCHES_AHEAD)
            while waiting:
                batch = waiting.popleft().result()
                start(1)
                yield batch
        finally:
            # An interrupt must not wait for what is decoded ahead.
            pool.shutdown(wait=False, cancel_futures=True)


class _Decoding:
    """A batch whose images are being decoded, each into its row."""

    def __init__(
        self,
        pool: ThreadPoolExecutor,
        ids: Sequence[int],
        paths: Sequence[str],
        size: int,
        fit: str,
    ) -> None:
        self._ids = np.array(ids, np.int64)
        self._images = np.empty((len(ids), size, size, 3), np.uint8)

        def read(row: int) -> Broken | None:
            try:
                self._images[row] = decode(paths[row], size, fit)
            except BrokenImageError as error:
                return Broken(int(ids[row]), paths[row], str(error))
            return None

        self._results = [pool.submit(read, row) for row in range(len(ids))]

    def result(self) -> Batch:
        results = [future.result() for future in self._results]
        broken = [result for result in results if result is not None]
        if not broken:
            return Batch(self._ids, self._images, broken)
        good = np.array([result is None for result in results])
        return Batch(self._ids[good], self._images[good], broken)
