"""Calls TensorFlow where an interrupt has left nothing half-way."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


def call(action: Callable[[], _T]) -> _T:
    """Calls a function in a thread of its own and returns what it returns.

    A KeyboardInterrupt may come while TensorFlow enters or leaves the scope of a device. Its thread
    is then on that device for good, and whatever it does next fails ("unknown device"); these
    scopes belong to a thread, so another one has none of it.

    Example:
        >>> call(lambda: 1 + 1)
        2
    """
    with concurrent.futures.ThreadPoolExecutor(1) as threads:
        return threads.submit(action).result()
