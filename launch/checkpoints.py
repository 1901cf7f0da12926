"""Reads the checkpoints of a run; one that is not whole never ends a training."""

from __future__ import annotations

import sys

import tensorflow as tf

from amstf.dynamic import UNFINISHED_FILES
from amstf.errors import AmstfError, ConfigError


class CheckpointError(AmstfError):
    """A checkpoint that is not there, or not whole."""


def step_of(path: str) -> int:
    """Returns the step of a checkpoint, which its name ends with."""
    return int(path.rpartition("-")[2])


def restore(checkpoint: tf.train.Checkpoint, path: str) -> None:
    """Reads all that a checkpoint holds for the objects that are there.

    Args:
        checkpoint: The objects, with all their variables made. After an error they may hold a part
            of the new values.
        path: Path of the checkpoint, without the ending of its files.

    Raises:
        CheckpointError: If the checkpoint is not there, or not whole.
        ConfigError: If it lacks something, as that of another model does.
    """
    try:
        status = checkpoint.restore(path)
    except tf.errors.NotFoundError as error:
        what = "is not there, or not any more"
        if _has_all_files(path):
            what = "is not whole: it adds to a checkpoint that is not there"
        raise CheckpointError(f"{path} {what}") from error
    except tf.errors.UnavailableError:  # A server was lost, and not a file.
        raise
    except (tf.errors.OpError, IndexError) as error:  # IndexError: a file was cut off.
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{path} is not whole ({first})") from error
    try:
        status.assert_existing_objects_matched().expect_partial()
    except AssertionError as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"{path} is of another model or version ({first})") from error


def _has_all_files(path: str) -> bool:
    data = tf.io.gfile.glob(f"{path}.data-*")  # Each ends with how many there are.
    has_data = bool(data) and len(data) == int(data[0].rpartition("-")[2])
    return has_data and bool(tf.io.gfile.glob(f"{path}.index"))


def restore_newest(
    checkpoint: tf.train.Checkpoint, manager: tf.train.CheckpointManager
) -> str | None:
    """Goes back to the newest checkpoint that is whole; warns of each that is not.

    Removes what is left of those that were never complete.

    Args:
        checkpoint: The objects, with all their variables made.
        manager: Of the directory.

    Returns:
        Path of the checkpoint, see `step_of`; None if the directory has none.

    Raises:
        CheckpointError: If none of them is whole.
    """
    for cut_off in tf.io.gfile.glob(f"{manager.directory}/*_temp"):
        tf.io.gfile.rmtree(cut_off)  # Of a chief that died while it wrote.
    for cut_off in tf.io.gfile.glob(f"{manager.directory}/{UNFINISHED_FILES}"):
        tf.io.gfile.remove(cut_off)  # Likewise.
    paths = sorted(_paths(manager), key=step_of, reverse=True)
    for path in paths:
        try:
            restore(checkpoint, path)
            return path
        except CheckpointError as error:
            if path != paths[-1]:
                print(f"warning: {error}; using the one before", file=sys.stderr, flush=True)
            else:
                raise CheckpointError(
                    f"{error}, and there is none before; remove {manager.directory} to train from "
                    "the start"
                ) from error
    return None


def _paths(manager: tf.train.CheckpointManager) -> list[str]:
    """Those in the state file, or, if that is lost, those whose index, written last, is there."""
    if manager.checkpoints:
        return list(manager.checkpoints)
    pattern = f"{manager.directory}/ckpt-*.index"
    return [path.removesuffix(".index") for path in tf.io.gfile.glob(pattern)]
