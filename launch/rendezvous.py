"""The chief's side of a cluster of several machines: who is there, and how the training ended.

It speaks a few text lines at the chief's own address while TensorFlow does not hold it (see
docs/design/launch.md, and `chief_link` for the other side):

    before   chief: amstf waiting    task: worker 1    chief, when all are there: amstf go
    after    chief: amstf left 0     task: worker 1

Imports no TensorFlow.
"""

import asyncio
import contextlib
import ipaddress
import os
import socket
import time
from collections.abc import Awaitable, Callable

from amstf.errors import ConfigError
from launch import tf_config
from launch.program import ClusterLostError

WAITING, GO, LEFT = b"amstf waiting\n", b"amstf go\n", b"amstf left "
MAX_LINE = 64  # Bytes: whoever sends more is none of ours.
_FIRST_REPORT, _NEXT_REPORTS = 12.0, 60.0  # Seconds; a start takes 5 to 10.
_CONNECT_TIMEOUT = 3.0  # Seconds for one try.
_NAMED_AT_ONCE = 4


def gather(role: tf_config.ClusterRole, timeout: float, say: Callable[[str], None]) -> None:
    """Waits until every worker and server answers at its port and has reported to this chief.

    Who is missing is named after 12 s, then every minute.

    Args:
      role: the chief's.
      timeout: seconds to wait at most.
      say: prints one line.

    Raises:
      ClusterLostError: some were missing for `timeout` seconds.
    """
    asyncio.run(_Gathering(role, timeout, say).run())


def farewell(role: tf_config.ClusterRole, code: int, timeout: float = 5.0) -> None:
    """Tells every worker and server how the chief has ended.

    Args:
      role: the chief's; TensorFlow must have left its address.
      code: the chief's exit code.
      timeout: seconds until those that have not asked are left to find out for themselves.
    """
    asyncio.run(_farewell(role, code, timeout))


def tasks_of(role: tf_config.ClusterRole) -> dict[str, str]:
    """Returns the addresses of workers and servers by name, e.g. `worker 0`."""
    return {
        f"{kind} {index}": address
        for kind in ("worker", "ps")
        for index, address in enumerate(role.cluster[kind])
    }


class _Gathering:
    """One wait: tries every port, and takes the reports of tasks."""

    def __init__(
        self, role: tf_config.ClusterRole, timeout: float, say: Callable[[str], None]
    ) -> None:
        self._role = role
        self._timeout = timeout
        self._say = say
        self._tasks = tasks_of(role)
        # Why a task's port does not answer; "" once it has.
        self._why = dict.fromkeys(self._tasks, "no answer")
        self._reported: dict[str, asyncio.StreamWriter] = {}

    async def run(self) -> None:
        started = time.monotonic()
        next_report = _FIRST_REPORT
        async with await _serve(self._role, self._take_report):
            tries = [asyncio.create_task(self._try(name)) for name in self._tasks]
            while missing := self._missing():
                waited = time.monotonic() - started
                if waited >= self._timeout:
                    raise ClusterLostError(
                        f"gave up after {waited:.0f} s: {self._describe(missing, waited)}; check "
                        "that they run with the same TF_CONFIG and that the network lets them "
                        "through, or wait longer with --connect_timeout_s"
                    )
                if waited >= next_report:
                    self._say(f"waiting for {self._describe(missing, waited)}")
                    next_report += _NEXT_REPORTS
                await asyncio.sleep(0.1)
            await asyncio.gather(*tries)
            for writer in self._reported.values():
                writer.write(GO)
                await writer.drain()

    def _missing(self) -> list[str]:
        return [name for name, why in self._why.items() if why or name not in self._reported]

    def _describe(self, missing: list[str], seconds: float) -> str:
        parts = [
            f"{name} at {self._tasks[name]} ("
            + (
                f"unreachable for {seconds:.0f} s: {self._why[name]})"
                if self._why[name]
                else f"answers, but has not reported to {self._role.address})"
            )
            for name in missing[:_NAMED_AT_ONCE]
        ]
        more = len(missing) - len(parts)
        return ", ".join(parts) + (f" and {more} more" if more else "")

    async def _try(self, name: str) -> None:
        host, _, port = self._tasks[name].rpartition(":")
        while self._why[name]:
            try:
                async with asyncio.timeout(_CONNECT_TIMEOUT):
                    _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
                writer.close()
                self._why[name] = ""
            except TimeoutError:
                self._why[name] = "no answer"
            except OSError as error:
                self._why[name] = _reason(error)
            await asyncio.sleep(0.2)

    async def _take_report(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        name = await _exchange(reader, writer, WAITING)
        if name in self._tasks:
            self._reported[name] = writer
            # A task that goes while the others are waited for has to report again.
            await _until_closed(reader)
            if self._reported.get(name) is writer:
                del self._reported[name]


async def _farewell(role: tf_config.ClusterRole, code: int, timeout: float) -> None:
    left = set(tasks_of(role))
    all_told = asyncio.Event()

    async def tell(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left.discard(await _exchange(reader, writer, LEFT + b"%d\n" % code))
        if not left:
            all_told.set()

    async with await _serve(role, tell):
        with contextlib.suppress(TimeoutError):  # Some are gone or cut off.
            async with asyncio.timeout(timeout):
                await all_told.wait()


async def _serve(
    role: tf_config.ClusterRole,
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> asyncio.Server:
    async def talk_quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # At the end of the loop, when asyncio would print a traceback.
        with contextlib.suppress(asyncio.CancelledError):
            await talk(reader, writer)
        writer.close()

    try:
        return await asyncio.start_server(talk_quietly, _interface(role), role.port, limit=MAX_LINE)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on port {role.port} of {role.name}: {error.strerror}"
        ) from error


def _interface(role: tf_config.ClusterRole) -> str | None:
    """The loopback address if the chief has one; else all interfaces, as TensorFlow listens."""
    host = role.address.rpartition(":")[0].strip("[]")
    with contextlib.suppress(ValueError):
        return host if ipaddress.ip_address(host).is_loopback else None
    return "127.0.0.1" if host == "localhost" else None


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, greeting: bytes
) -> str:
    """Greets whoever has connected; returns the name it gives, or "" for a stranger."""
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            writer.write(greeting)
            await writer.drain()
            return (await reader.readline()).decode("ascii", "replace").strip()
    except (OSError, ValueError, TimeoutError):  # ValueError: a line longer than MAX_LINE.
        return ""


async def _until_closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(MAX_LINE):
            pass


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its host name is not known"
    # Not its own text: asyncio's names the address again, and has no errno for a name with several.
    return os.strerror(error.errno).lower() if error.errno else "connection failed"
