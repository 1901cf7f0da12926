"""Programs: prepare data, train, evaluate, export; and the processes of a parameter-server cluster.

Importing this package quiets TensorFlow, which must happen before TensorFlow itself is imported.
What the environment already says is kept; `AMSTF_VERBOSE=1` keeps TensorFlow's logs.
"""

import functools
import logging
import os
import sys
import types
import warnings
from collections.abc import Callable


def _quiet_tensorflow() -> None:
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    if os.environ.get("AMSTF_VERBOSE", "0") not in ("", "0"):
        return
    # Keras' own reading of a dataset's options, once for each worker; it changes nothing.
    warnings.filterwarnings("ignore", "To make it possible to preserve tf.data options")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    # TensorFlow adopts the level and filters that its Python logger has when it is imported.
    logger = logging.getLogger("tensorflow")
    # A local cluster's launcher reports lost workers itself, in one line.
    reported = os.environ.get("AMSTF_LOCAL_CLUSTER") == "1"
    logger.setLevel(logging.CRITICAL if reported else logging.ERROR)
    logger.addFilter(_keep_first_line)
    sys.unraisablehook = functools.partial(_leave_out_lost_tensors, otherwise=sys.unraisablehook)


def _keep_first_line(record: logging.LogRecord) -> bool:
    """TensorFlow logs a lost worker as pages of gRPC; the first line names it."""
    record.msg, record.args = record.getMessage().partition("\n")[0], ()
    return True


def _leave_out_lost_tensors(
    unraisable: "sys.UnraisableHookArgs", otherwise: Callable[["sys.UnraisableHookArgs"], object]
) -> None:
    """TensorFlow's destructors talk to servers; of one that is lost Python would print pages."""
    if not unraisable.exc_type.__module__.startswith("tensorflow."):
        otherwise(unraisable)


def _say_interrupted(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Keeps ctrl-C during the seconds of TensorFlow's import, before `program.run`, to one line."""
    if issubclass(kind, KeyboardInterrupt):
        print("interrupted", file=sys.stderr, flush=True)
    else:
        sys.__excepthook__(kind, error, trace)


_quiet_tensorflow()
sys.excepthook = _say_interrupted
