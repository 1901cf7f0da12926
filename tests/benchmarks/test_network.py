import os
import socket
import subprocess
import sys

import pytest

from amstf.errors import ConfigError
from benchmarks import network

CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10) as peer:
    peer.sendall(bytes(500_000))
"""


@pytest.fixture
def hosts():
    reason = network.unavailable()
    if reason:
        pytest.skip(reason)
    with network.Hosts(["a", "b", "c"], rate="1gbit") as hosts:
        yield hosts


def qdiscs(device):
    command = ["tc", "qdisc", "show", "dev", device]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def links():
    return subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout


def test_hosts_reach_each_other_and_each_link_is_counted(hosts):
    with hosts.inside("b"):
        listener = socket.create_server(("", 0))
    before = hosts.link_bytes()
    with listener:
        port = str(listener.getsockname()[1])
        with hosts.inside("a"):
            command = [sys.executable, "-c", CONNECT, hosts.addresses["b"], port]
            child = subprocess.Popen(command)
        peer, (address, _) = listener.accept()
        with peer:
            while peer.recv(1 << 20):
                pass
        assert child.wait(10) == 0
    assert address == hosts.addresses["a"]
    moved = {link: count - before[link] for link, count in hosts.link_bytes().items()}
    assert 500_000 < moved["a", "sent"] < 540_000
    assert 500_000 < moved["b", "received"] < 540_000
    assert moved["b", "sent"] < 100_000
    assert moved["c", "received"] < 10_000


def test_links_are_limited_and_limits_change(hosts):
    with hosts.inside("a"):
        assert "tbf" in qdiscs("eth0") and "rate 1Gbit" in qdiscs("eth0")
    hosts.limit("10gbit")
    with hosts.inside("c"):
        assert "rate 10Gbit" in qdiscs("eth0")
    hosts.limit(None)
    with hosts.inside("a"):
        assert "tbf" not in qdiscs("eth0")


def test_the_network_of_the_machine_is_not_touched(hosts):
    inside_before = os.readlink("/proc/thread-self/ns/net")
    before = links()
    with network.Hosts(["a"]), pytest.raises(RuntimeError), network.own_loopback():
        assert os.readlink("/proc/thread-self/ns/net") != inside_before
        raise RuntimeError
    assert os.readlink("/proc/thread-self/ns/net") == inside_before
    assert links() == before


def test_where_it_is_not_allowed_the_reason_is_said(monkeypatch):
    def refuse(self):
        raise PermissionError(1, "unshare(CLONE_NEWNET): Operation not permitted")

    monkeypatch.setattr(network.Namespace, "__init__", refuse)
    assert "not permitted" in network.unavailable()
    with pytest.raises(ConfigError, match="run as root"):
        network.Hosts(["a"])
    with network.own_loopback() as own:
        assert not own
