"""Files on other file systems (s3://, gs://, hdfs://) through TensorFlow, and local copies."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import pathlib
import shutil
import tempfile

import tensorflow as tf

CACHE_VARIABLE = "AMSTF_CACHE"
_CHUNK = 8 << 20


def register(path: str) -> None:
    """Makes TensorFlow know the file system of a path, in this process.

    TensorFlow itself brings gs://; tensorflow-io brings s3://, hdfs://, az:// and others.

    Raises:
        OSError: If no file system of that scheme is known; names those that are.
    """
    scheme = path.partition("://")[0]
    if scheme not in _schemes():
        load_file_systems()
    if scheme not in _schemes():
        raise OSError(
            f"{path}: no file system {scheme}:// is known; known are {', '.join(_schemes())}"
        )


@functools.cache
def load_file_systems() -> None:
    """Loads tensorflow-io's file systems; a server needs them before a worker names such a path."""
    # Where it does not load, its schemes stay unknown, which `register` says.
    with contextlib.suppress(ImportError, NotImplementedError):
        import tensorflow_io  # noqa: F401
    # Seen with tensorflow-io 0.37.1: once s3:// was used, the process aborts while C++ tears it
    # down, "pure virtual method called". So it ends before that, with the same exit code; Python
    # has finished by then.
    libc = ctypes.CDLL(None)
    libc.on_exit(libc._exit, None)


def local_copy(path: str) -> str:
    """Copies a file, or the files of a pattern, to the disk of this machine, once.

    The copies lie in $AMSTF_CACHE, by default ~/.cache/amstf, under a name that tells versions of
    the file apart, and stay there.

    Args:
        path: A remote file or a pattern such as s3://bucket/data/images-*.h5.

    Returns:
        The path of the copy, or a pattern that matches the copies.

    Raises:
        OSError: If there is no such file, the disk is too small, or a copy breaks.
    """
    register(path)
    try:
        found = sorted(tf.io.gfile.glob(path)) if any(c in path for c in "*?[") else [path]
        versions = [(name, tf.io.gfile.stat(name)) for name in found]
    except tf.errors.OpError as error:
        raise OSError(f"{path} cannot be reached: {error.message}") from error
    if not found:
        raise OSError(f"{path} does not exist")
    facts = repr([(name, status.length, status.mtime_nsec) for name, status in versions])
    root = os.environ.get(CACHE_VARIABLE) or os.path.expanduser("~/.cache/amstf")
    directory = pathlib.Path(root, hashlib.sha256(facts.encode()).hexdigest()[:16])
    directory.mkdir(parents=True, exist_ok=True)
    missing = [(n, s.length) for n, s in versions if not (directory / _name(n)).exists()]
    wanted, free = sum(length for _, length in missing), shutil.disk_usage(directory).free
    if wanted > free:
        raise OSError(
            f"{path}: a copy takes {wanted:,} bytes and {directory} has {free:,}; "
            f"set {CACHE_VARIABLE} to a directory on a larger disk"
        )
    for name, length in missing:
        _copy(name, length, directory / _name(name))
    return str(directory / _name(path))


def _schemes() -> list[str]:
    return sorted(scheme for scheme in tf.io.gfile.get_registered_schemes() if scheme)


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _copy(source: str, length: int, target: pathlib.Path) -> None:
    from tqdm import tqdm

    # Renamed when complete: another process may be looking for the copy, or making it too.
    handle, partial = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with (
            os.fdopen(handle, "wb") as out,
            tf.io.gfile.GFile(source, "rb") as file,
            # disable=None: silent where nobody watches.
            tqdm(total=length, desc=f"copying {source}", unit="B", unit_scale=True, disable=None,
                 leave=False) as bar,
        ):  # fmt: skip
            done = 0
            while done < length:
                chunk = file.read(min(_CHUNK, length - done))
                if not chunk:
                    raise OSError(f"{source} ended after {done:,} of {length:,} bytes")
                out.write(chunk)
                done += len(chunk)
                bar.update(len(chunk))
        os.replace(partial, target)
    except tf.errors.OpError as error:
        raise OSError(f"{source} cannot be copied: {error.message}") from error
    finally:
        pathlib.Path(partial).unlink(missing_ok=True)
