"""Chief, workers and servers of several machines find each other and part, over real sockets."""

import contextlib
import socket
import threading

import pytest

from amstf.errors import ConfigError
from launch import chief_link, rendezvous, tf_config
from launch.local_cluster import _on_free_ports
from launch.program import EXIT_RESTART, ClusterLostError

LONG = 60.0  # Seconds; nothing here waits for them to pass.


class Task:
    """A worker or server without TensorFlow: a port that answers, and a link to the chief."""

    def __init__(self, cluster, kind, timeout=LONG):
        self.role = tf_config.parse(tf_config.build(cluster, kind, 0))
        self.said = []
        self.code = None
        self._port = socket.create_server(("127.0.0.1", self.role.port))
        self._thread = threading.Thread(target=self._follow, args=(timeout,), daemon=True)
        self._thread.start()

    def _follow(self, timeout):
        self.code = chief_link.follow(self.role, timeout, self.said.append)

    def wait(self):
        self._thread.join(20)
        self._port.close()
        assert not self._thread.is_alive()
        return self.code


@pytest.fixture
def cluster():
    return _on_free_ports(1, 1)


@pytest.fixture
def chief(cluster):
    return tf_config.parse(tf_config.build(cluster, "chief", 0))


def nothing(line):
    raise AssertionError(f"said {line!r}")


@pytest.mark.parametrize(
    ("left_with", "code", "why"),
    [
        (0, 0, "the chief is done"),
        (2, 2, "the chief ended with exit code 2, which a restart would not cure"),
        (EXIT_RESTART, EXIT_RESTART, "a new one needs a fresh process here"),
        (137, EXIT_RESTART, "the chief ended with exit code 137: a new one"),
    ],
)
def test_tasks_leave_as_the_chief_has_left(cluster, chief, left_with, code, why):
    tasks = [Task(cluster, "worker"), Task(cluster, "ps")]
    rendezvous.gather(chief, LONG, nothing)
    rendezvous.farewell(chief, left_with, LONG)
    for task in tasks:
        assert task.wait() == code
        assert len(task.said) == 1 and why in task.said[0]


def test_a_new_chief_gets_fresh_processes(cluster, chief):
    tasks = [Task(cluster, "worker"), Task(cluster, "ps")]
    rendezvous.gather(chief, LONG, nothing)
    # As after kill -9: no farewell, and another chief at once.
    with pytest.raises(ClusterLostError):
        rendezvous.gather(chief, 2, nothing)
    for task in tasks:
        assert task.wait() == EXIT_RESTART
        assert task.said == ["a new chief has started: this process served the one before"]


def test_tensorflow_at_the_chiefs_address_is_a_chief_that_trains(cluster, chief):
    """A worker that is started again in the middle of a training meets no rendezvous."""
    with socket.create_server(("127.0.0.1", chief.port)) as tensorflow:
        task = Task(cluster, "worker", timeout=0.2)
        connection, _ = tensorflow.accept()
        # HTTP/2 settings, as gRPC sends them; they may be of any length and hold line ends.
        connection.sendall(b"\0\0\x12\4\0\0\0\0\0\n" * 20)
        tensorflow.settimeout(1.5)
        with pytest.raises(TimeoutError):  # It stays, and does not come again.
            tensorflow.accept()
        connection.close()
    assert task.wait() == EXIT_RESTART
    assert task.said == ["the chief has been gone for 0.2 s"]


def test_an_unused_task_waits_for_the_next_chief(cluster, chief):
    tasks = [Task(cluster, "worker"), Task(cluster, "ps")]
    rendezvous.farewell(chief, EXIT_RESTART, LONG)  # Of a training that it never served.
    rendezvous.gather(chief, LONG, nothing)
    rendezvous.farewell(chief, 0, LONG)
    assert [task.wait() for task in tasks] == [0, 0]


def test_a_chief_that_never_comes(cluster):
    task = Task(cluster, "ps", timeout=0.1)
    assert task.wait() == EXIT_RESTART
    assert task.said == ["the chief has been gone for 0.1 s"]


def test_who_is_missing_is_named_with_the_reason_and_at_last_given_up(cluster, chief, monkeypatch):
    monkeypatch.setattr(rendezvous, "_FIRST_REPORT", 1.0)
    said = []
    ps = tf_config.parse(tf_config.build(cluster, "ps", 0))
    silent = socket.create_server(("127.0.0.1", ps.port))  # Answers, but is no task of ours.
    with silent, pytest.raises(ClusterLostError) as error:
        rendezvous.gather(chief, 1.5, said.append)
    worker, server = cluster["worker"][0], cluster["ps"][0]
    assert said == [
        f"waiting for worker 0 at {worker} (unreachable for 1 s: connection refused), "
        f"ps 0 at {server} (answers, but has not reported to {chief.address})"
    ]
    assert str(error.value).startswith(f"gave up after 2 s: worker 0 at {worker} (unreachable for")
    assert "--connect_timeout_s" in str(error.value)


def test_many_that_are_missing_are_counted(monkeypatch):
    cluster = {**_on_free_ports(6, 1), "ps": ["no-such-host.invalid:1"]}
    chief = tf_config.parse(tf_config.build(cluster, "chief", 0))
    with pytest.raises(ClusterLostError, match=r"worker 3 at .* and 3 more; check"):
        rendezvous.gather(chief, 0.1, nothing)


def test_strangers_do_not_disturb(cluster, chief):
    """Whatever connects to the chief's address: it is dropped, and the cluster is complete."""

    def disturb():
        for line in (b"GET / HTTP/1.1\r\n", b"worker 7\n", b"x" * 100_000, b"\xff\xfe\n", b""):
            with contextlib.suppress(OSError):
                address = ("127.0.0.1", chief.port)
                with socket.create_connection(address, timeout=5) as connection:
                    connection.sendall(line)
                    connection.recv(100)

    waiting = threading.Timer(0.5, lambda: (disturb(), tasks.extend(start())))

    def start():
        return [Task(cluster, "worker"), Task(cluster, "ps")]

    tasks = []
    waiting.start()
    rendezvous.gather(chief, LONG, nothing)
    waiting.join()
    rendezvous.farewell(chief, 0, LONG)
    assert [task.wait() for task in tasks] == [0, 0]


def test_a_taken_address_is_named(chief):
    taken = socket.create_server(("127.0.0.1", chief.port))
    with taken, pytest.raises(ConfigError, match=rf"cannot listen on port {chief.port} of chief 0"):
        rendezvous.gather(chief, 0.1, nothing)
