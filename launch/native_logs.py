"""Holds back the lines of TensorFlow's C++ that no environment variable switches off.

TensorFlow 2.17's C++ library carries its own hidden copy of abseil's logging, which heeds neither
TF_CPP_MIN_LOG_LEVEL nor a function one could call: `absl::SetMinLogLevel` of
libtensorflow_framework.so was tried and acts on another copy.
"""

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator

from launch import program

# Of errors only those of functions on a server that is lost, which the exception tells better.
_NOISE = re.compile(
    rb"([IW]\d{4} \d\d:\d\d:\S+ +\d+ \S+:\d+\] |WARNING: All log messages before absl::Init"
    rb"|E\d{4} \d\d:\d\d:\S+ +\d+ context\.cc:\d+\] Failed to (register|remove) function remotely)"
)
# What follows such a note on lines of its own.
_CONTINUATION = re.compile(
    rb"Additional GRPC error|:\{\"created\"|This could happen if the remote target has been"
)


@contextlib.contextmanager
def filtered() -> Iterator[None]:
    """While it is open, stderr is shown as it comes, without TensorFlow's notes.

    For the whole life of a chief: its C++ threads write such notes when a step fails or a worker is
    lost, beside the one line that says so. With AMSTF_VERBOSE=1 it does nothing.

    Example:
        with native_logs.filtered():
            model.fit(...)
    """
    if _wants_all():
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    read_end, write_end = os.pipe()
    os.dup2(write_end, 2)
    os.close(write_end)
    reader = threading.Thread(target=_pass_on, args=(read_end, terminal), daemon=True)
    reader.start()
    try:
        yield
    finally:
        sys.stderr.flush()
        # Closes the last writing end, so that the reader comes to an end.
        os.dup2(terminal, 2)
        reader.join(timeout=5)
        os.close(terminal)


def filter_to_the_end() -> None:
    """As `filtered`, until this process ends: TensorFlow writes notes while a failure is told."""
    context = filtered()
    context.__enter__()
    program.before_leaving(lambda: context.__exit__(None, None, None))


def _pass_on(read_end: int, terminal: int) -> None:
    is_note = False
    with os.fdopen(read_end, "rb") as lines:
        for line in lines:
            is_note = bool(_NOISE.match(line) or (is_note and _CONTINUATION.match(line)))
            if not is_note:
                os.write(terminal, line)


def _wants_all() -> bool:
    return os.environ.get("AMSTF_VERBOSE", "0") not in ("", "0")


@contextlib.contextmanager
def quieted() -> Iterator[None]:
    """While it is open, stderr is kept; at its end all but TensorFlow's notes is shown.

    For the construction of a parameter-server strategy, which says `Started server with target`.
    With AMSTF_VERBOSE=1 it does nothing.

    Example:
        with native_logs.quieted():
            strategy = tf.distribute.ParameterServerStrategy(resolver)
    """
    if _wants_all():
        yield
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            kept.seek(0)
            for line in kept:
                if not _NOISE.match(line):
                    os.write(2, line)
