"""Where the records of TFRecord files begin, so that any of them can be read at once."""

from __future__ import annotations

import itertools
import os

import numpy as np

from amstf import files
from amstf.data.manifest import frames
from amstf.errors import SampleError

SUFFIX = ".offsets"
"""Of the file beside a TFRecord file: int64, where each record begins, and where the last ends."""

_FRAME_BYTES = 16  # Of a record, around its data.
_DTYPE = np.dtype("<i8")


def framed_size(data_bytes: int) -> int:
    """Bytes that a record takes in a file."""
    return data_bytes + _FRAME_BYTES


def write_record_offsets(path: str | os.PathLike, sizes: np.ndarray) -> None:
    """Writes the offsets of a TFRecord file beside it.

    Args:
        path: The TFRecord file.
        sizes: Bytes that each record takes in it (`framed_size`), int64 [n].
    """
    offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    offsets.astype(_DTYPE).tofile(f"{path}{SUFFIX}")


def record_offsets(path: str | os.PathLike, records: int) -> np.ndarray:
    """Returns where the records of a TFRecord file begin, and where the last ends.

    From the file of offsets beside it; if there is none that fits, by reading the file once.

    Args:
        path: The TFRecord file.
        records: Its records (n).

    Returns:
        Bytes, int64 [n + 1]; not in memory but mapped, if it comes from a file.

    Raises:
        SampleError: If the file does not hold so many records.

    Example:
        >>> import tempfile
        >>> import tensorflow as tf
        >>> path = tempfile.mktemp()
        >>> with tf.io.TFRecordWriter(path) as writer:
        ...     writer.write(b"abc")
        ...     writer.write(b"")
        >>> record_offsets(path, 2).tolist()
        [0, 19, 35]
    """
    path = os.fspath(path)
    beside = f"{path}{SUFFIX}"
    try:
        if files.size(beside) == (records + 1) * _DTYPE.itemsize:
            offsets = _read(beside)
            if (offsets[0], offsets[-1]) == (0, files.size(path)):
                return offsets
    except OSError:
        pass
    return scan(path, records)


def _read(path: str) -> np.ndarray:
    if not files.is_remote(path):
        return np.memmap(path, _DTYPE, mode="r")
    with files.open_binary(path) as file:
        return np.frombuffer(file.read(), _DTYPE)


def scan(path: str, records: int) -> np.ndarray:
    """Finds where records begin by reading the file; as `record_offsets` otherwise."""
    size = files.size(path)
    ends = [end for _, end in itertools.islice(frames(path, size), records)]
    whole = [end for end in ends if end <= size]
    if len(whole) < records:
        raise SampleError(
            f"{path} ends in record {len(whole):,} of {records:,}, or that record is damaged; "
            "copy or write the data set again"
        )
    return np.array([0, *whole], np.int64)
