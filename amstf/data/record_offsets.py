"""Where the records of TFRecord files begin, so that any of them can be read at once."""

from __future__ import annotations

import itertools
import os

import numpy as np
import tensorflow as tf

from amstf import files
from amstf.data.manifest import frames
from amstf.errors import SampleError

SUFFIX = ".offsets"
"""Of the file beside a TFRecord file: int64, where each record begins, and where the last ends."""

IMPRESSIONS_SUFFIX = ".impressions"
"""Of the file beside one of groups: int64, how many impressions come before each, and how many all
are."""

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
    _sums(sizes).tofile(f"{path}{SUFFIX}")


def write_group_sizes(path: str | os.PathLike, sizes: np.ndarray) -> None:
    """Writes how many impressions come before each group beside a file of groups.

    Args:
        path: The TFRecord file.
        sizes: Impressions of each group, int64 [n].
    """
    _sums(sizes).tofile(f"{path}{IMPRESSIONS_SUFFIX}")


def _sums(sizes: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(_DTYPE)


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
    try:
        end = files.size(path)
    except OSError:
        end = None
    offsets = _beside(f"{path}{SUFFIX}", records, end)
    return scan(path, records) if offsets is None else offsets


def impressions_before(
    path: str | os.PathLike, records: int, impressions: int, label: str
) -> np.ndarray:
    """Returns how many impressions come before each group of a file, and how many all are.

    From the file beside it; if there is none that fits, by reading the file once.

    Args:
        path: A TFRecord file of groups.
        records: Its groups (n).
        impressions: Its impressions.
        label: Name of a feature list that each group has.

    Returns:
        int64 [n + 1]; not in memory but mapped, if it comes from a file.

    Raises:
        SampleError: If the file does not hold so many.
    """
    path = os.fspath(path)
    before = _beside(f"{path}{IMPRESSIONS_SUFFIX}", records, impressions)
    if before is not None:
        return before
    sizes = []
    for record in tf.data.TFRecordDataset(path).as_numpy_iterator():
        lists = tf.train.SequenceExample.FromString(record).feature_lists.feature_list
        sizes.append(len(lists[label].feature))
    if (len(sizes), sum(sizes)) != (records, impressions):
        raise SampleError(
            f"{path} has {len(sizes):,} groups of {sum(sizes):,} impressions, its manifest says "
            f"{records:,} and {impressions:,}; copy or write the data set again"
        )
    return _sums(np.array(sizes, np.int64))


def _beside(path: str, records: int, end: int | None) -> np.ndarray | None:
    """Returns the sums in a file if it has so many and they end so."""
    try:
        if files.size(path) == (records + 1) * _DTYPE.itemsize:
            sums = _read(path)
            if (sums[0], sums[-1]) == (0, end):
                return sums
    except OSError:
        pass
    return None


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
