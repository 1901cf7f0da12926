"""The side of workers and servers of a cluster of several machines: follows the chief.

See `rendezvous` for the chief's side and the lines they exchange. Imports no TensorFlow.
"""

import socket
import time
from collections.abc import Callable

from launch import program, tf_config
from launch.rendezvous import GO, LEFT, MAX_LINE, WAITING

_RETRY = 0.5  # Seconds between two tries.
_CONNECT_TIMEOUT = 5.0  # Seconds.
# A silent connection that lived this long was held by TensorFlow, not by a closing rendezvous.
_SURELY_TENSORFLOW = 2.0


def follow(role: tf_config.ClusterRole, timeout: float, say: Callable[[str], None]) -> int:
    """Reports to the chief and waits until it has left, or been gone for too long.

    Args:
      role: the worker's or server's own; it must be ready to serve.
      timeout: seconds without a chief after which to leave; 0: never.
      say: prints the line that says why this ends.

    Returns:
      The exit code for this process: 0 when the training is finished, the chief's own when it
      failed for good, EXIT_RESTART when a new chief needs a fresh process here.
    """
    return _Link(role, say).follow(timeout)


class _Link:
    def __init__(self, role: tf_config.ClusterRole, say: Callable[[str], None]) -> None:
        self._role = role
        self._say = say
        # Whether a chief has used this process: its variables and rounds are in it.
        self._served = False

    def follow(self, timeout: float) -> int:
        host, _, port = self._role.cluster["chief"][0].rpartition(":")
        last_seen = time.monotonic()
        while True:
            try:
                connection = socket.create_connection(
                    (host.strip("[]"), int(port)), _CONNECT_TIMEOUT
                )
            except OSError:
                if timeout and time.monotonic() - last_seen >= timeout:
                    self._say(f"the chief has been gone for {timeout:g} s")
                    return program.EXIT_RESTART
            else:
                with connection:
                    code = self._stay(connection)
                if code is not None:
                    return code
                last_seen = time.monotonic()
            time.sleep(_RETRY)

    def _stay(self, connection: socket.socket) -> int | None:
        """Stays connected as long as the chief does; returns the exit code if this is the end."""
        line, since = b"", time.monotonic()
        try:
            connection.settimeout(None)
            _find_dead_machines(connection)
            with connection.makefile("rwb", buffering=0) as stream:
                line = stream.readline(MAX_LINE)
                if line == WAITING:
                    if self._served:
                        self._say("a new chief has started: this process served the one before")
                        return program.EXIT_RESTART
                    stream.write(self._name())
                    self._served = stream.readline(MAX_LINE) == GO
                elif line.startswith(LEFT):
                    stream.write(self._name())
                    return self._code_after(line.removeprefix(LEFT))
                elif line:
                    self._served = True
                    while stream.read(4096):  # TensorFlow's: it closes after 2 minutes of silence.
                        pass
        except OSError:
            pass  # The chief's process or machine has gone: the next try tells more.
        if not line and time.monotonic() - since > _SURELY_TENSORFLOW:
            self._served = True
        return None

    def _name(self) -> bytes:
        return f"{self._role.name}\n".encode()

    def _code_after(self, text: bytes) -> int | None:
        try:
            code = int(text)
        except ValueError:
            return None
        if code == 0:
            self._say("the chief is done")
            return 0
        if program.is_permanent(code):
            self._say(f"the chief ended with exit code {code}, which a restart would not cure")
            return code
        if not self._served:
            return None  # The farewell of an earlier training; the next chief can have this one.
        self._say(f"the chief ended with exit code {code}: a new one needs a fresh process here")
        return program.EXIT_RESTART


def _find_dead_machines(connection: socket.socket) -> None:
    """Has the kernel ask every 10 s whether the other machine is alive, and give up after 30 s."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)
