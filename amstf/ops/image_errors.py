"""TensorFlow's errors about images, told again without its internals."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import tensorflow as tf

from amstf.errors import MissingImageError, StoreError

_MISSING = re.compile(r"\d+ of \d+ image ids are not in .*?missing='zeros'", re.DOTALL)
_BAD_STORE = re.compile(
    r"(?:the features of image id \d+ in .*? are not all finite numbers"
    r"|cannot open \S+: .*? under this path"
    r"|\S+ has \d+ bytes, expected \d+: .*? under that path)",
    re.DOTALL,
)


@contextlib.contextmanager
def image_errors() -> Iterator[None]:
    """Turns TensorFlow's error about an image into one message.

    An op's message comes out of `fit` amid the names of graph nodes and stack traces of every
    process it passed. Other errors pass unchanged.

    Raises:
        MissingImageError: Instead of NotFoundError, naming some ids that the store lacks.
        StoreError: If the files of a store changed or hold features that are not finite.

    Example:
        >>> def train(model, batches):
        ...     with image_errors():
        ...         model.fit(batches)
    """
    try:
        yield
    except (tf.errors.NotFoundError, tf.errors.DataLossError) as error:
        for pattern, kind in ((_MISSING, MissingImageError), (_BAD_STORE, StoreError)):
            found = pattern.search(str(error))
            if found:
                raise kind(found.group(0)) from error
        raise
