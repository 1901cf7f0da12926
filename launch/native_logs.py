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
from collections.abc import Iterator

_NOISE = re.compile(
    rb"[IW]\d{4} \d\d:\d\d:\S+ +\d+ \S+:\d+\] |WARNING: All log messages before absl::Initialize"
)


@contextlib.contextmanager
def quieted() -> Iterator[None]:
    """While it is open, stderr is kept; at its end all but TensorFlow's notes is shown.

    For the construction of a parameter-server strategy, which says `Started server with target`.
    With AMSTF_VERBOSE=1 it does nothing.

    Example:
        with native_logs.quieted():
            strategy = tf.distribute.ParameterServerStrategy(resolver)
    """
    if os.environ.get("AMSTF_VERBOSE", "0") not in ("", "0"):
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
