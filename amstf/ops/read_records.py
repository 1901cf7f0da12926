"""Op that reads stretches of TFRecord files."""

from __future__ import annotations

import tensorflow as tf

from amstf.ops._load import load_library


def read_records(paths: tf.Tensor, offsets: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
    """Reads the records that lie in stretches of TFRecord files, stretch after stretch.

    Each stretch is one read of the file, so that records from many places make a batch without a
    buffer to shuffle them in.

    Args:
        paths: File of each stretch, string [r].
        offsets: Where its first record begins, bytes, int64 [r].
        sizes: Its length, bytes, int64 [r]; it ends with a record.

    Returns:
        The records, string [n].

    Raises:
        tf.errors.DataLossError: If a record is damaged or the file is shorter; names file and byte.
        tf.errors.NotFoundError: If there is no such file.
    """
    return load_library().ams_read_records(paths=paths, offsets=offsets, sizes=sizes)


# Records are strings: there is no gradient.
tf.no_gradient("AmsReadRecords")
