"""TensorFlow's read errors, told again with the file, the record and the byte offset."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from amstf import files
from amstf.data.manifest import frames
from amstf.data.parsing import LIST_TOO_LONG, SIZE_MISMATCH, VALUES_MISMATCH, WEIGHT_MISMATCH
from amstf.data.record_offsets import SUFFIX, record_offsets, scan
from amstf.data.samples_reader import Samples
from amstf.errors import SampleError

_CHUNK = 1024
_PARSE_ERROR = re.compile(
    "|".join(
        (
            "[Pp]arse ?[Ee]xample",
            "could not be found",
            "Data types? ",
            "negative number of bytes",
            WEIGHT_MISMATCH,
            SIZE_MISMATCH,
            VALUES_MISMATCH,
            LIST_TOO_LONG,
        )
    )
)


@contextlib.contextmanager
def record_errors(samples: Samples, split: str) -> Iterator[None]:
    """Turns TensorFlow's error about a bad record into one that says where the record is.

    TensorFlow says neither the file nor the record. To carry both along would cost every good
    record something, so the split is read once more when an error has come up. Other errors, and
    errors that the second reading does not confirm, pass unchanged.

    Args:
        samples: The data set that the block reads.
        split: The split that the block reads.

    Raises:
        SampleError: Instead of DataLossError or InvalidArgumentError, names file, number of the
            record in the file (from 0), byte offset of its beginning, and what is wrong.

    Example:
        >>> def train(model, samples):
        ...     with record_errors(samples, "train"):
        ...         model.fit(samples.dataset("train", 512))
    """
    samples.files(split)
    try:
        yield
    # TensorFlow puts the record itself into its message, which then may not be text.
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, UnicodeDecodeError) as error:
        # A model's own errors can be InvalidArgumentErrors too; do not read all data for them.
        if isinstance(error, tf.errors.InvalidArgumentError) and not _PARSE_ERROR.search(
            error.message
        ):
            raise
        found = _located(samples, split) or _wrong_offsets(samples, split)
        if found is None:
            raise
        raise found from error


def find_bad_record(samples: Samples, split: str) -> SampleError | None:
    """Reads a split and returns an error that names its first bad record, or None if all are good.

    Args:
        samples: The data set.
        split: Name of the split.
    """
    for path in samples.files(split):
        if found := _beyond_the_end(path):
            return found
        done = 0
        chunks = iter(tf.data.TFRecordDataset(path).batch(_CHUNK))
        while True:
            try:
                chunk = next(chunks, None)
            except tf.errors.DataLossError as error:
                return _damaged(path, error)
            if chunk is None:
                break
            if _parse_problem(samples, split, chunk):
                # The shortest beginning of the chunk that fails ends with the first bad record.
                good, bad = 0, len(chunk)
                while bad - good > 1:
                    middle = (good + bad) // 2
                    fails = _parse_problem(samples, split, chunk[:middle])
                    good, bad = (good, middle) if fails else (middle, bad)
                problem = _parse_problem(samples, split, chunk[good:bad])
                return _error(path, done + good, None, problem or "it is no sample")
            done += len(chunk)
    return None


def _beyond_the_end(path: str) -> SampleError | None:
    """What a length says must not be reserved before it was compared with the file."""
    size = files.size(path)
    for number, (offset, end) in enumerate(_frames(path)):
        if end > size:
            problem = (
                f"the record is damaged, its length goes to byte {end:,}, the file to {size:,}"
            )
            return _error(path, number, offset, problem)
    return None


def _located(samples: Samples, split: str) -> SampleError | None:
    # A file that was damaged after it was opened shows in its size first.
    try:
        samples.manifest.verify(samples.directory)
    except SampleError as damage:
        return damage
    return find_bad_record(samples, split)


def _wrong_offsets(samples: Samples, split: str) -> SampleError | None:
    for path, file in zip(samples.files(split), samples.manifest.files(split), strict=True):
        if not np.array_equal(record_offsets(path, file.records), scan(path, file.records)):
            return SampleError(
                f"{path}{SUFFIX} does not say where the records of {path} begin; remove it: "
                "it is not needed, only saves reading the file once at the start"
            )
    return None


def _parse_problem(samples: Samples, split: str, serialized: tf.Tensor) -> str | None:
    try:
        samples.parse(split, serialized, samples.schema.fields)
    except tf.errors.InvalidArgumentError as error:
        return _readable(error.message)
    except UnicodeDecodeError:
        return "Could not parse example input"
    return None


def _readable(message: str) -> str:
    message = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", message)
    message = re.sub(r"Name: <unknown>, ?", "", message)
    return message.split("Condition x")[0].strip().split("\n")[0][:300]


def _damaged(path: str, error: tf.errors.DataLossError) -> SampleError:
    position = re.search(r"record at (\d+)", error.message)
    at = int(position.group(1)) if position else 0
    # The position is that of the header or of the data behind it, so look for the whole record.
    for number, (offset, end) in enumerate(_frames(path)):
        if at < end:
            return _error(path, number, offset, "the record is damaged, its checksum is wrong")
    return _error(path, None, at, "the file is damaged")


def _error(path: str, number: int | None, offset: int | None, problem: str) -> SampleError:
    if offset is None and number is not None:
        offset = next(itertools.islice(_frames(path), number, None))[0]
    record = "" if number is None else f"record {number} "
    return SampleError(
        f"{path}: {record}at byte {offset} cannot be read: {problem}. "
        "Copy the file again, or write the data set again"
    )


def _frames(path: str) -> Iterator[tuple[int, int]]:
    return frames(path, files.size(path))
