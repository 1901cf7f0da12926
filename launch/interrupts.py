"""Ctrl-C and SIGTERM as the exception they are, whatever the code they came upon makes of them.

Python raises a signal's exception wherever its main thread happens to be. In the midst of
TensorFlow it may come out as something else (pybind's "MISMATCH of original and normalized active
exception types"), and in a destructor Python prints it and goes on. So the signal itself is
remembered, what comes out after it is read as its exception, and what was dropped is raised once
more.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

from amstf.errors import AmstfError


class TerminatedError(KeyboardInterrupt):
    """SIGTERM, as an exception; one clean-up serves it and ctrl-C."""


_received: type[KeyboardInterrupt] | None = None


def listen() -> None:
    """Has SIGINT and SIGTERM raised in the main thread; SIGINT unless it is ignored (`nohup`)."""
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = functools.partial(_raise_dropped, otherwise=sys.unraisablehook)


@contextlib.contextmanager
def recognised() -> Iterator[None]:
    """Raises the interrupt for what comes out of the body after a signal, and takes it as served.

    An AmstfError stays itself: it says what a person has to know, as `SystemExit` does.

    Raises:
        KeyboardInterrupt: After SIGINT; a TerminatedError after SIGTERM.

    Example:
        >>> with recognised():
        ...     1 + 1
        2
    """
    global _received
    try:
        yield
    except (AmstfError, SystemExit):
        raise
    except BaseException as error:
        received, _received = _received, None
        if received is None or type(error) is received:
            raise
        raise received from error


def _raise_dropped(
    unraisable: sys.UnraisableHookArgs, otherwise: Callable[[sys.UnraisableHookArgs], object]
) -> None:
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        # Later: raised now, it would come out in this very hook and be dropped again.
        threading.Timer(0.1, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
    else:
        otherwise(unraisable)


def _interrupt(number: int, frame: object) -> NoReturn:
    global _received
    del number, frame
    _received = _received or KeyboardInterrupt
    raise KeyboardInterrupt


def _terminate(number: int, frame: object) -> NoReturn:
    global _received
    del frame
    signal.signal(number, signal.SIG_DFL)  # A second one ends a clean-up that hangs.
    _received = TerminatedError
    raise TerminatedError
