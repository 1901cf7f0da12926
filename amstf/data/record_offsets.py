"""Where the records of TFRecord files begin, so that any of them can be read at once."""

from __future__ import annotations

import os
import pathlib
import struct

import numpy as np

from amstf.errors import SampleError

SUFFIX = ".offsets"
"""Of the file beside a TFRecord file: int64, where each record begins, and where the last ends."""

_HEADER = struct.Struct("<QI")
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
    beside = pathlib.Path(f"{path}{SUFFIX}")
    try:
        if beside.stat().st_size == (records + 1) * _DTYPE.itemsize:
            offsets = np.memmap(beside, _DTYPE, mode="r")
            if offsets[-1] == os.path.getsize(path):
                return offsets
    except OSError:
        pass
    return _scan(pathlib.Path(path), records)


def _scan(path: pathlib.Path, records: int) -> np.ndarray:
    offsets = np.zeros(records + 1, np.int64)
    size = path.stat().st_size
    at = 0
    with path.open("rb") as file:
        for number in range(records):
            file.seek(at)
            header = file.read(_HEADER.size)
            if len(header) == _HEADER.size:
                at += framed_size(_HEADER.unpack(header)[0])
            if len(header) < _HEADER.size or at > size:
                raise SampleError(
                    f"{path} ends in record {number:,} of {records:,}, or that record is damaged; "
                    "copy or write the data set again"
                )
            offsets[number + 1] = at
    return offsets
