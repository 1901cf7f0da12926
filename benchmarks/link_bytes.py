"""Bytes that crossed: of a network device, and of each pair of processes on it.

    with link_bytes.loopback() as moved:
        ...
    print(moved.bytes)

The device's counter is the truth about all: it counts every packet with its headers, whoever sent
it. The kernel's counters of each TCP connection (`ss`) say who sent it, without headers; those are
added as packets times `HEADER`. Both count from the same packets, so they can be compared: what
the connections say should be what the device says.

The counters are those of the network namespace of the calling thread: see `network.own_loopback`
for a loopback device without the neighbours' bytes.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping

from amstf.errors import ConfigError

HEADER = 52
"""Bytes of IPv4 (20) and TCP with time stamps (32) before the payload of a packet on loopback."""

_NUMBER = re.compile(r"\b(bytes_sent|segs_out):(\d+)")
_PROCESS = re.compile(r"pid=(\d+)")


@dataclasses.dataclass(frozen=True)
class DeviceBytes:
    """Counters of a network device, headers included."""

    received: int
    sent: int


def read_device(name: str = "lo") -> DeviceBytes:
    """Reads the counters of a device, bytes since it is there."""
    # Not /sys/class/net: it shows the namespace in which it was mounted.
    for line in pathlib.Path("/proc/thread-self/net/dev").read_text().splitlines():
        device, _, numbers = line.partition(":")
        if device.strip() == name:
            values = numbers.split()
            return DeviceBytes(int(values[0]), int(values[8]))
    raise OSError(f"there is no network device {name!r}")


@dataclasses.dataclass
class Moved:
    """What moved during a block.

    Attributes:
        bytes: Over the device, headers included; 0 until the block has ended.
    """

    bytes: int = 0


@contextlib.contextmanager
def loopback() -> Iterator[Moved]:
    """Counts the bytes that the loopback device moves while the block is open.

    Example:
        >>> with loopback() as moved:
        ...     pass
        >>> moved.bytes >= 0
        True
    """
    moved, before = Moved(), read_device().sent
    try:
        yield moved
    finally:
        moved.bytes = read_device().sent - before


Pair = tuple[int, int]
"""Ids of the processes that sent and that received."""


class Connections:
    """Bytes of each pair of processes between two moments, from their TCP connections.

    Connections are counted from the beginning of their life if that is after the first moment; one
    that ends before the second is lost from the count. TensorFlow keeps its own open.
    """

    def __init__(self) -> None:
        self._before = _read_sockets()

    def moved(self) -> dict[Pair, int]:
        """Returns (sender, receiver) -> bytes since this object was made, with headers.

        A process that is not this user's has the id 0.
        """
        now = _read_sockets()
        bytes_of: collections.Counter[Pair] = collections.Counter()
        for ends, socket in now.items():
            before = self._before.get(ends, _Socket(socket.process, 0, 0))
            peer = now.get(ends[::-1])
            if peer is None:  # The other end has gone, or is on another host.
                continue
            bytes_of[socket.process, peer.process] += (
                socket.sent - before.sent + HEADER * (socket.packets - before.packets)
            )
        return {pair: count for pair, count in bytes_of.items() if count}


@dataclasses.dataclass(frozen=True)
class _Socket:
    process: int
    sent: int  # Payload, bytes; what was sent twice counts twice, as it does on the device.
    packets: int  # With or without payload.


def _read_sockets() -> dict[tuple[str, str], _Socket]:
    """Sockets by (own address, address of the other end)."""
    if shutil.which("ss") is None:
        raise ConfigError("the program ss is not there; install iproute2 (apt install iproute2)")
    done = subprocess.run(
        ["ss", "--tcp", "--info", "--processes", "--numeric", "--no-header", "--oneline"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": "10000"},
    )
    sockets = {}
    for line in done.stdout.splitlines():
        words = line.split()
        process = _PROCESS.search(line)
        numbers = dict(_NUMBER.findall(line))
        sockets[_plain(words[3]), _plain(words[4])] = _Socket(
            int(process[1]) if process else 0,
            int(numbers.get("bytes_sent", 0)),
            int(numbers.get("segs_out", 0)),
        )
    return sockets


def _plain(address: str) -> str:
    """Of a socket of IPv6, as gRPC's are, that shows 127.0.0.1 as [::ffff:127.0.0.1]."""
    return address.replace("[::ffff:", "").replace("]", "")


def by_role(moved: Mapping[Pair, int], roles: Mapping[int, str]) -> dict[tuple[str, str], int]:
    """Sums bytes of pairs of processes by what they are.

    Args:
        moved: From `Connections.moved`.
        roles: Process id -> role; a process that is not in it is an "other".

    Returns:
        Two roles in the order of the alphabet -> bytes both ways.

    Example:
        >>> by_role({(1, 2): 10, (2, 1): 5, (1, 9): 1}, {1: "worker", 2: "ps"})
        {('ps', 'worker'): 15, ('other', 'worker'): 1}
    """
    total: collections.Counter[tuple[str, str]] = collections.Counter()
    for (sender, receiver), count in moved.items():
        first, second = sorted((roles.get(sender, "other"), roles.get(receiver, "other")))
        total[first, second] += count
    return dict(total)
