"""The batches of a split in the order of a pass: which records are in each, and where they lie."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from amstf.data.record_offsets import impressions_before, record_offsets
from amstf.data.samples_reader import Samples
from amstf.errors import SampleError

SHUFFLE_BLOCK = 16
"""Samples that shuffling keeps together: a batch of 256 comes from 16 places of the data."""


@dataclasses.dataclass(frozen=True)
class Stretches:
    """Records that lie together in files; r stretches.

    Attributes:
        paths: The file of each, [r] objects (str).
        offsets: Where its first record begins, bytes, int64 [r].
        sizes: Its length, bytes, int64 [r].
    """

    paths: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray


class BatchOrder:
    """Which records each batch of each pass over a split holds.

    A pass is all samples once: files are cut in blocks, the blocks put in random order, and these
    cut in batches.
    Everything follows from the seed and the number of the pass, so a batch can be read at any time,
    by anybody, again, and the position in the data is one number.

    Args:
        samples: The data set.
        split: Name of the split.
        batch_size: Samples per batch (B). Where samples are stored in groups a batch has equally
            many groups, B samples on average.
        shuffle: Whether blocks come in random order; otherwise files and records in turn as stored.
        seed: Of the random order.
        block_size: Samples that stay together, of groups on average. Fewer mix better and cost
            more reads.

    Attributes:
        num_records: Records of a pass: samples, or groups of them.
        num_impressions: Samples of a pass (N).
        steps_per_pass: Batches of a pass, ceil(N / B) if samples are not grouped; the last may be
            smaller.

    Raises:
        SampleError: If an argument is out of range, or a file is not what the manifest says.

    Example:
        >>> import tempfile
        >>> from amstf.data import SampleWriter
        >>> from amstf.schema import Field, Schema
        >>> schema = Schema((Field("user", "sparse", vocabulary_size=9), Field("y", "label")))
        >>> directory = tempfile.mkdtemp()
        >>> with SampleWriter(directory, schema, "train", num_shards=1) as writer:
        ...     for user in range(5):
        ...         writer.write({"user": user, "y": 1.0})
        >>> order = BatchOrder(Samples.open(directory), "train", batch_size=2, block_size=1)
        >>> order.steps_per_pass, len(order.batch(2).paths)
        (3, 1)
    """

    def __init__(
        self,
        samples: Samples,
        split: str,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        block_size: int = SHUFFLE_BLOCK,
    ) -> None:
        for name, value in (("batch_size", batch_size), ("block_size", block_size)):
            if value < 1:
                raise SampleError(f"{name} is {value}; it must be at least 1")
        self._batch_size = samples.records_of(split, batch_size)
        block_size = samples.records_of(split, block_size)
        self._shuffle = shuffle
        self._seed = seed
        counts = [file.records for file in samples.manifest.files(split)]
        self._paths = np.array(samples.files(split), dtype=object)
        self._offsets = [
            record_offsets(path, count) for path, count in zip(self._paths, counts, strict=True)
        ]
        self.num_records = sum(counts)
        self.num_impressions = samples.num_impressions(split)
        self._impressions = _impressions_before(samples, split)
        if not self.num_records:
            raise SampleError(f"{samples.directory}: the split {split!r} has no samples")
        self.steps_per_pass = -(-self.num_records // self._batch_size)
        starts = [np.arange(0, count, block_size) for count in counts]
        self._file_of_block = np.repeat(np.arange(len(counts)), [len(start) for start in starts])
        self._first = np.concatenate(starts)
        self._count = np.minimum(block_size, np.array(counts)[self._file_of_block] - self._first)
        self._blocks_of_pass = functools.lru_cache(maxsize=2)(self._order_blocks)

    def batch(self, step: int) -> Stretches:
        """Returns where the records of a batch lie.

        Args:
            step: Counts batches from 0, on into later passes.
        """
        number, step_of_pass = divmod(step, self.steps_per_pass)
        blocks, begins = self._blocks_of_pass(number)
        begin = step_of_pass * self._batch_size
        end = min(begin + self._batch_size, self.num_records)
        first = np.searchsorted(begins, begin, side="right") - 1
        last = np.searchsorted(begins, end, side="left")
        inside = blocks[first:last]
        # Of the first and last block, what belongs to the batch.
        skipped = np.maximum(begin - begins[first:last], 0)
        ends = np.minimum(end - begins[first:last], self._count[inside])
        files, starts = self._file_of_block[inside], self._first[inside]
        offsets = self._at(files, starts + skipped)
        return Stretches(self._paths[files], offsets, self._at(files, starts + ends) - offsets)

    def impressions_before(self, step: int) -> int:
        """Returns how many samples the batches before a step hold, those of earlier passes too."""
        number, step_of_pass = divmod(step, self.steps_per_pass)
        end = step_of_pass * self._batch_size
        before = number * self.num_impressions
        if self._impressions is None or not end:
            return before + end
        blocks, begins = self._blocks_of_pass(number)
        blocks = blocks[: np.searchsorted(begins, end, side="left")]
        files, starts = self._file_of_block[blocks], self._first[blocks]
        ends = starts + np.minimum(end - begins[: len(blocks)], self._count[blocks])
        for file, sums in enumerate(self._impressions):
            here = files == file
            before += int((sums[ends[here]] - sums[starts[here]]).sum())
        return before

    def _order_blocks(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The blocks of a pass in order, and how many records come before each."""
        blocks = np.arange(len(self._count))
        if self._shuffle:
            np.random.default_rng([self._seed, number]).shuffle(blocks)
        begins = np.cumsum(self._count[blocks])
        return blocks, begins - self._count[blocks]

    def _at(self, files: np.ndarray, records: np.ndarray) -> np.ndarray:
        return np.array(
            [self._offsets[file][record] for file, record in zip(files, records, strict=True)],
            np.int64,
        )


def _impressions_before(samples: Samples, split: str) -> list[np.ndarray] | None:
    """Returns for each file how many samples come before each of its groups; None if no groups."""
    if not samples.is_grouped(split):
        return None
    label = samples.schema.labels[0].stored_name
    return [
        impressions_before(path, file.records, file.impressions or 0, label)
        for path, file in zip(samples.files(split), samples.manifest.files(split), strict=True)
    ]
