"""Networks of this machine's own making: a loopback for oneself, hosts with limited links.

    with network.Hosts(["chief", "worker-0"], rate="1gbit") as hosts:
        with hosts.inside("worker-0"):
            child = subprocess.Popen(...)      # lives on that host

Each host is a nameless Linux network namespace: its end of a virtual cable (veth) is the only way
out, the other end is a port of a bridge, and a token bucket (tc tbf) at each end limits what it
sends. Namespaces belong to this process and its children: when all have ended, by SIGKILL too, the
kernel removes them, and nothing of the machine's own network is ever touched.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator, Sequence
from typing import Self

from amstf.errors import ConfigError
from benchmarks import link_bytes

_CLONE_NEWNET = 0x40000000
_OWN = "/proc/thread-self/ns/net"
_LIBC = ctypes.CDLL(None, use_errno=True)
_SUBNET = "10.77.0"
# What a bucket holds must be more than a packet, which is up to 64 KiB before the card cuts it,
# and more than passes between two ticks of a 100 Hz clock would be at 1 Gbit/s.
_BURST = "2mb"
_LATENCY = "20ms"


class Namespace:
    """A network that only those see who were started inside it."""

    def __init__(self) -> None:
        before = os.open(_OWN, os.O_RDONLY)
        try:
            _check(_LIBC.unshare(_CLONE_NEWNET), "unshare(CLONE_NEWNET)")
            self._file = os.open(_OWN, os.O_RDONLY)
            _check(_LIBC.setns(before, _CLONE_NEWNET), "setns")
        finally:
            os.close(before)
        self.run("ip link set lo up")

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """While it is open, this thread and the processes that it starts are in the namespace."""
        before = os.open(_OWN, os.O_RDONLY)
        try:
            _check(_LIBC.setns(self._file, _CLONE_NEWNET), "setns")
            try:
                yield
            finally:
                _check(_LIBC.setns(before, _CLONE_NEWNET), "setns")
        finally:
            os.close(before)

    def run(self, command: str) -> None:
        """Runs a command of the packages iproute2 in the namespace."""
        with self.inside():
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise OSError(f"{command}: {done.stderr.strip()}")

    @property
    def path(self) -> str:
        """Names the namespace to `ip`."""
        return f"/proc/{os.getpid()}/fd/{self._file}"

    def close(self) -> None:
        """Lets go of it; it lives on while processes are in it."""
        os.close(self._file)


class Hosts:
    """Hosts on one switch.

    Args:
        names: Of the hosts.
        rate: What a link carries in each direction, as `tc` writes it; None for no limit.

    Raises:
        ConfigError: If this machine does not allow it.
    """

    def __init__(self, names: Sequence[str], rate: str | None = None) -> None:
        reason = unavailable()
        if reason:
            raise ConfigError(reason)
        self._switch = Namespace()
        self._hosts = {name: Namespace() for name in names}
        self.addresses = {name: f"{_SUBNET}.{i}" for i, name in enumerate(names, start=1)}
        self._switch.run("ip link add bridge type bridge")
        self._switch.run("ip link set bridge up")
        for i, (name, host) in enumerate(self._hosts.items(), start=1):
            self._switch.run(f"ip link add port{i} type veth peer name eth0 netns {host.path}")
            self._switch.run(f"ip link set port{i} master bridge up")
            host.run(f"ip address add {self.addresses[name]}/24 dev eth0")
            host.run("ip link set eth0 up")
        self.limit(rate)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for namespace in (*self._hosts.values(), self._switch):
            namespace.close()

    def inside(self, name: str) -> contextlib.AbstractContextManager[None]:
        """While it is open, this thread and the processes that it starts are on that host."""
        return self._hosts[name].inside()

    def limit(self, rate: str | None) -> None:
        """Changes what every link carries in each direction, while it is in use too."""
        ends = [(host, "eth0") for host in self._hosts.values()]
        ends += [(self._switch, f"port{i}") for i in range(1, len(self._hosts) + 1)]
        for namespace, device in ends:
            if rate is None:
                with contextlib.suppress(OSError):  # There is none to delete at the beginning.
                    namespace.run(f"tc qdisc del dev {device} root")
            else:
                bucket = f"tbf rate {rate} burst {_BURST} latency {_LATENCY}"
                namespace.run(f"tc qdisc replace dev {device} root {bucket}")

    def link_bytes(self) -> dict[tuple[str, str], int]:
        """Bytes that each link has carried so far: (host, "sent" or "received") -> bytes."""
        counted = {}
        for name in self._hosts:
            with self.inside(name):
                device = link_bytes.read_device("eth0")
            counted[name, "sent"] = device.sent
            counted[name, "received"] = device.received
        return counted


def unavailable() -> str | None:
    """Says why this machine allows no hosts of one's own; None if it does."""
    try:
        namespace, other = Namespace(), Namespace()
        try:
            namespace.run("ip link add bridge type bridge")
            namespace.run(f"ip link add eth0 type veth peer name eth0 netns {other.path}")
            namespace.run("tc qdisc replace dev eth0 root tbf rate 1gbit burst 2mb latency 20ms")
        finally:
            namespace.close()
            other.close()
    except OSError as error:
        return f"network namespaces with limited links are not allowed here ({error}); run as root"
    return None


@contextlib.contextmanager
def own_loopback() -> Iterator[bool]:
    """While it is open, this thread and its children have a loopback device that nobody else uses.

    Yields:
        True; False where that is not allowed, and the loopback device is the machine's own.
    """
    try:
        namespace = Namespace()
    except OSError:
        yield False
        return
    try:
        with namespace.inside():
            yield True
    finally:
        namespace.close()


def _check(code: int, call: str) -> None:
    if code:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
