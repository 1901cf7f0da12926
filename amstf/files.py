"""Small files that other people wrote: read with bounds, locally or on a remote file system."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import stat
from collections.abc import Iterator
from typing import Any

from amstf.errors import AmstfError

MAX_BYTES = 256 << 20
"""Largest text file that is read: a manifest of a million shards is smaller."""


class RemotePath:
    """A directory on a remote file system, as far as it behaves like a `pathlib.Path`.

    Example:
        >>> str(RemotePath("s3://bucket/data/") / "manifest.json")
        's3://bucket/data/manifest.json'
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(join(self._url, name))

    def __fspath__(self) -> str:
        return self._url

    __str__ = __fspath__

    def __repr__(self) -> str:
        return f"RemotePath({self._url!r})"


_REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Returns whether a path names another file system, such as `s3://bucket/data`.

    Example:
        >>> is_remote("s3://bucket/data"), is_remote("/data"), is_remote("file:///data")
        (True, False, True)
    """
    return bool(_REMOTE.match(os.fspath(path)))


def join(directory: str | os.PathLike[str], name: str) -> str:
    """Returns the path of a file of a directory; pathlib would make `s3:/b` of `s3://b`."""
    if is_remote(name) or os.path.isabs(name):
        return name
    if is_remote(directory):
        return f"{os.fspath(directory).rstrip('/')}/{name}"
    return str(pathlib.Path(directory, name))


def size(path: str | os.PathLike[str]) -> int:
    """Returns the size of a regular file, in bytes.

    Raises:
        OSError: If it is missing, or a pipe, a device or a directory, which would be read for ever.
        ValueError: If no file can have such a name.
    """
    if is_remote(path):
        with _remote_errors(path) as file_system:
            status = file_system.stat(os.fspath(path))
        if status.is_directory:
            raise OSError(f"{path} is a directory")
        return status.length
    local = os.stat(path)
    if not stat.S_ISREG(local.st_mode):
        raise OSError(f"{path} is not a regular file")
    return local.st_size


def local_copy(path: str) -> str:
    """Copies a remote file here, once; see `amstf.remote_files.local_copy`."""
    from amstf import remote_files  # imports TensorFlow

    return remote_files.local_copy(path)


def refuse_remote(path: str | os.PathLike[str], what: str, error: type[AmstfError]) -> None:
    """Refuses a remote path where only local ones can be; `error` is the class to raise."""
    if is_remote(path):
        raise error(
            f"{what} {path}: only a local directory can be written to; write it here and copy it "
            "there, e.g. with `aws s3 cp --recursive`"
        )


@contextlib.contextmanager
def open_binary(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Opens a file for reading bytes: an object with `read` and `seek`."""
    if not is_remote(path):
        with open(path, "rb") as local:
            yield local
        return
    with _remote_errors(path) as file_system, file_system.GFile(os.fspath(path), "rb") as remote:
        yield remote


def read_text(path: str | os.PathLike[str]) -> str:
    """Reads a text file of UTF-8.

    Raises:
        OSError: If it is missing, no regular file, or larger than `MAX_BYTES`.
        ValueError: If it is not UTF-8.
    """
    length = size(path)
    if length > MAX_BYTES:
        raise OSError(f"{path} has {length:,} bytes, which is too much for such a file")
    if is_remote(path):
        with open_binary(path) as file:
            content: bytes = file.read()
        return content.decode("utf-8")
    return pathlib.Path(path).read_text(encoding="utf-8")


def parse_json(text: str) -> Any:
    """Parses JSON (and NaN, which Python's own writer writes), but nothing that would fail later.

    Raises:
        ValueError: If the text is no JSON, nests too deep, or has numbers of thousands of digits or
            half characters in it.

    Example:
        >>> parse_json('{"a": 1}')
        {'a': 1}
    """
    try:
        content = json.loads(text)
        # A lone surrogate is no text: it can be neither printed nor be part of a path.
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    except RecursionError:
        raise ValueError("it nests too deep") from None
    except UnicodeEncodeError:
        raise ValueError("it holds half a character (a lone surrogate)") from None
    return content


@contextlib.contextmanager
def _remote_errors(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Gives TensorFlow's file systems; their errors become those that local files raise."""
    # TensorFlow takes seconds to import, and local files need none of it.
    import tensorflow as tf

    from amstf import remote_files

    remote_files.register(os.fspath(path))
    try:
        yield tf.io.gfile
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist") from error
    except tf.errors.OpError as error:
        raise OSError(f"{path} cannot be reached: {error.message}") from error
