"""Loads the library of custom ops; the only place that does."""

from __future__ import annotations

import functools
import pathlib
import re
import types

import tensorflow as tf

LIBRARY = pathlib.Path(__file__).with_name("_amstf_ops.so")
_MARKER = re.compile(rb"AMSTF_BUILT_FOR_TENSORFLOW=([0-9A-Za-z.\-]+)")


def built_for(library: pathlib.Path) -> str:
    """Returns the TensorFlow version that a library file says it was built for.

    Raises:
        ImportError: If the file is not a library of this project.
    """
    found = _MARKER.search(library.read_bytes())
    if found is None:
        raise ImportError(f"{library} is not amstf's op library; rebuild it: pip install -e .")
    return found.group(1).decode()


def load(library: pathlib.Path) -> types.ModuleType:
    """Loads an op library after comparing its TensorFlow version with the running one.

    Raises:
        ImportError: If the library is missing, is another, or was built for another TensorFlow.
    """
    if not library.exists():
        raise ImportError(
            f"amstf's op library {library} is missing; build it: pip install -e . in the project"
        )
    built = built_for(library)
    if built != tf.__version__:
        raise ImportError(
            f"amstf's op library was built for TensorFlow {built}, but TensorFlow {tf.__version__} "
            f"is running; rebuild it (pip install -e .) or install tensorflow=={built}"
        )
    try:
        return tf.load_op_library(str(library))
    except (tf.errors.NotFoundError, OSError) as error:
        raise ImportError(
            f"amstf's op library {library} does not load with TensorFlow {tf.__version__}, though "
            f"it was built for {built}; rebuild it: pip install -e . ({error})"
        ) from error


@functools.cache
def load_library() -> types.ModuleType:
    """Loads the op library of this installation, once per process.

    A worker or parameter server calls it before its `tf.distribute.Server` starts: a server that
    has no kernel for an op refuses the functions that use it.
    """
    return load(LIBRARY)
