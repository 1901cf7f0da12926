"""Finds the weights of a Keras application: a file, a folder, Keras' own download, or none."""

from __future__ import annotations

import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from amstf import compat
from amstf.errors import ConfigError

RANDOM = "random"


def find_weights(
    wanted: str | None, name: str, application: Callable[..., Any], options: dict[str, Any]
) -> pathlib.Path | None:
    """Returns the file that an application's weights are to be read from.

    Args:
        wanted: A file; a directory that holds the file under its well-known name; None for Keras'
            own copy (~/.keras/models) or download; "random" for none.
        name: Name of the backbone, for messages.
        application: A function of `keras.applications`.
        options: Its arguments.

    Returns:
        The file; None for random weights.

    Raises:
        ConfigError: If it is not there, or has a well-known name and another content.
    """
    if wanted == RANDOM:
        return None
    if wanted is not None and not os.path.exists(wanted):
        raise ConfigError(f"--weights={wanted}: there is no such file or directory")
    try:
        file_name, address, checksum = compat.published_weights(application, **options)
    except ValueError as error:
        if wanted is not None and os.path.isfile(wanted):
            return pathlib.Path(wanted)  # Weights of one's own, e.g. of another image size.
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"--backbone={name}: Keras has no published weights for this ({reason}); name a file "
            "of your own with --weights=FILE, or try with --weights=random"
        ) from error
    if wanted is None:
        return _keras_copy(name, file_name, address, checksum)
    path = pathlib.Path(wanted)
    if path.is_dir():
        path = path / file_name
        if not path.exists():
            raise ConfigError(
                f"--weights={wanted}: the directory has no {file_name}, Keras' name for the "
                f"weights of {name}; put that file there ({address}), or name another one with "
                "--weights=FILE"
            )
    if path.name == file_name and checksum is not None:
        _check(path, checksum)
    return path


def _keras_copy(name: str, file_name: str, address: str, checksum: str | None) -> pathlib.Path:
    try:
        found = tf.keras.utils.get_file(
            file_name, address, cache_subdir="models", file_hash=checksum
        )
    except Exception as error:  # Keras raises a bare Exception for a failed download.
        cache = pathlib.Path("~/.keras/models")
        reason = " ".join(str(error).split()).rpartition(" -- ")[2]  # The address stands before.
        raise ConfigError(
            f"the weights of {name} are not here and could not be fetched ({reason}); download "
            f"{address} on a machine that can, then put {file_name} into {cache} or say where it "
            "is with --weights=FILE; --weights=random does without, for trials"
        ) from error
    return pathlib.Path(found)


def _check(path: pathlib.Path, checksum: str) -> None:
    kind = "md5" if len(checksum) == 32 else "sha256"
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, kind).hexdigest()
    if found != checksum:
        raise ConfigError(
            f"{path} has Keras' name for its published weights, but {kind} {found} where Keras' "
            f"file has {checksum}: it is damaged or another one; fetch it again, or give weights "
            "of your own another name"
        )
