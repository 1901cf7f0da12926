import contextlib
import os
import socket
import subprocess
import sys

import pytest

from amstf.errors import ConfigError
from benchmarks import link_bytes, network

MEGABYTE = 1_000_000
RESENT = 1.2
"""A busy machine acknowledges late, and TCP then sends a packet of 64 KiB again."""

SEND = """
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as peer:
    peer.sendall(bytes(int(sys.argv[2])))
    peer.recv(1)  # Stays until it is told to go: closed connections are lost from the count.
"""


@pytest.fixture
def own_loopback():
    with network.own_loopback() as own:
        if not own:
            pytest.skip("network namespaces are not allowed here")
        yield


@contextlib.contextmanager
def child_that_sends(count):
    """A process with an open connection over which so many bytes have come here."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-c", SEND, str(listener.getsockname()[1]), str(count)]
        with subprocess.Popen(command) as child:
            peer, _ = listener.accept()
            with peer:
                received = 0
                while received < count:
                    received += len(peer.recv(1 << 20))
                yield child
                peer.sendall(b"!")


def test_the_loopback_device_counts_what_moves_in_a_block(own_loopback):
    with link_bytes.loopback() as moved, child_that_sends(MEGABYTE):
        pass
    assert MEGABYTE < moved.bytes < RESENT * MEGABYTE
    with link_bytes.loopback() as moved:
        pass
    assert moved.bytes < 0.01 * MEGABYTE  # At most the connection's last acknowledgements.


def test_connections_say_who_sent_to_whom_and_explain_what_the_device_moved(own_loopback):
    with link_bytes.loopback() as moved:
        connections = link_bytes.Connections()
        with child_that_sends(3 * MEGABYTE) as child:
            pairs = connections.moved()
    assert set(pairs) == {(child.pid, os.getpid()), (os.getpid(), child.pid)}
    there, back = pairs[child.pid, os.getpid()], pairs[os.getpid(), child.pid]
    assert 3 * MEGABYTE < there < RESENT * 3 * MEGABYTE
    assert 0 < back < 0.01 * MEGABYTE  # Acknowledgements.
    assert sum(pairs.values()) == pytest.approx(moved.bytes, rel=0.005)


def test_connections_count_from_the_moment_they_are_made(own_loopback):
    with child_that_sends(MEGABYTE):
        assert not link_bytes.Connections().moved()


def test_pairs_are_summed_by_role_in_either_direction():
    moved = {(1, 2): 10, (2, 1): 5, (1, 9): 1, (3, 2): 100}
    roles = {1: "worker", 2: "server", 3: "server"}
    assert link_bytes.by_role(moved, roles) == {
        ("server", "worker"): 15,
        ("other", "worker"): 1,
        ("server", "server"): 100,
    }


def test_a_device_that_is_not_there_is_named():
    with pytest.raises(OSError, match="no network device 'eth99'"):
        link_bytes.read_device("eth99")


def test_a_program_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(link_bytes.shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match="install iproute2"):
        link_bytes.Connections()
