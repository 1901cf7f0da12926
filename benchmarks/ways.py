"""Three ways to give a click model its images, each on a cluster of its own that steps on demand.

    with RunningWay(ways.SERVER, shape, "scratch", cache) as running:
        seconds = running.steps(16)

  store-in-worker  the samples carry the features of their images; E is computed by the worker
  store-in-server  servers keep the images and workers pull their features (placement="workers")
  AMS              servers keep the images and run E (placement="servers"), arXiv 1711.06505
  no images        the network of the three, which gets zeros for images: what is not about images

All have the same network, optimizer and samples. The chief of a cluster (`benchmarks.ways_chief`)
makes as many steps as it is told, so that several clusters can be timed in turn, and counters be
read in between.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing.connection
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any, Self

from absl import flags

from amstf.config import MERGES, WIRE_DTYPES, AmsConfig
from amstf.errors import ConfigError
from benchmarks import network
from benchmarks.click_shape import ClickShape
from launch import child
from launch.local_cluster import LocalCluster

IN_SAMPLES = "samples"
IN_STORE = "store"
NO_IMAGES = "none"

_MERGE = flags.DEFINE_enum("merge", "async", MERGES, "How AMS merges the requests of workers.")
# What the period costs in AUC is measured elsewhere.
_SYNC_EVERY = flags.DEFINE_integer(
    "sync_every", 8, "Rounds of AMS between two exchanges of E.", lower_bound=1
)
_WIRE_DTYPE = flags.DEFINE_enum(
    "wire_dtype", "float32", WIRE_DTYPES, "Type of AMS's embeddings on the wire."
)

ADDRESS = "AMSTF_BENCHMARK_SOCKET"
_PORT = 20_000
_START_SECONDS = 240
_STEP_SECONDS = 120


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to give the model its images.

    Attributes:
        name: For people, and key of its results.
        images: "samples", "store" or "none": where the images are.
        ams: The knobs of the servers.
    """

    name: str
    images: str
    ams: AmsConfig = dataclasses.field(default_factory=AmsConfig)


NONE = Way("no images", NO_IMAGES)
WORKER = Way("store-in-worker", IN_SAMPLES)
SERVER = Way("store-in-server", IN_STORE, AmsConfig(placement="workers"))


def ams(config: AmsConfig, name: str = "AMS") -> Way:
    """AMS with its knobs."""
    return Way(name, IN_STORE, config)


def ams_of_flags() -> AmsConfig:
    """The knobs of AMS that the flags name."""
    return AmsConfig(merge=_MERGE.value, sync_every=_SYNC_EVERY.value, wire_dtype=_WIRE_DTYPE.value)


class RunningWay:
    """A cluster that trains in one way, for as long as a `with` block is open.

    Args:
        way: The way.
        shape: Sizes; the data must have been made by `click_shape.prepare`, for store-in-worker
            by `images_in_samples.prepare` too.
        directory: For the logs and the socket of the cluster.
        cache: Where `click_shape.prepare` keeps its data.
        num_workers: Workers (W).
        num_servers: Parameter servers (S), all of which hold images.
        hosts: Where the processes live, `host_names(W, S)`; on this thread's loopback by default.
    """

    def __init__(
        self,
        way: Way,
        shape: ClickShape,
        directory: str | os.PathLike,
        cache: str | os.PathLike,
        *,
        num_workers: int = 2,
        num_servers: int = 2,
        hosts: network.Hosts | None = None,
    ) -> None:
        self.way = way
        self.num_workers = num_workers
        self._shape = shape
        self._cache = str(cache)
        self._hosts = hosts
        self._directory = pathlib.Path(directory)
        self._directory.mkdir(parents=True, exist_ok=True)
        quiet = {"say": lambda line: None}
        if hosts is None:
            self._cluster = LocalCluster(
                num_workers, num_servers, self._directory, start_timeout=_START_SECONDS, **quiet
            )
        else:
            self._cluster = _ClusterOnHosts(hosts, num_workers, num_servers, self._directory)
        self._parts = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            with self._on_chiefs_host():
                self._parts.enter_context(self._cluster)
                self._start_chief()
        except BaseException:
            self._parts.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._parts.close()

    def steps(self, count: int) -> float:
        """Makes steps, shared by the workers as they are free, and waits for the last.

        Returns:
            Seconds for all of them.
        """
        return self._ask(count, _STEP_SECONDS * count)["seconds"]

    @property
    def roles(self) -> Mapping[int, str]:
        """Process id -> "chief", "worker" or "server"."""
        names = {"ps": "server", "worker": "worker"}
        roles = {p.pid: names[task[0]] for task, p in self._cluster.processes.items()}
        return {**roles, self._chief.pid: "chief"}

    def _on_chiefs_host(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._hosts is None else self._hosts.inside("chief-0")

    def _start_chief(self) -> None:
        address = str(self._directory / "socket")
        listener = multiprocessing.connection.Listener(address, "AF_UNIX")
        self._parts.callback(listener.close)
        with open(self._directory / "chief.log", "wb") as log:
            self._chief = child.spawn(
                [sys.executable, "-m", "benchmarks.ways_chief"],
                environment={**self._cluster.environment(), ADDRESS: address},
                stdout=log,
                stderr=log,
            )
        self._parts.callback(self._end_chief)
        self._connection = self._accept(listener)
        self._parts.callback(self._connection.close)
        self._ask((self.way, self._shape, self._cache), _START_SECONDS)

    def _accept(
        self, listener: multiprocessing.connection.Listener
    ) -> multiprocessing.connection.Connection:
        deadline = time.monotonic() + _START_SECONDS
        # A listener has no timeout of its own, and the chief may end before it connects.
        listener._listener._socket.settimeout(1)
        while self._chief.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                return listener.accept()
        raise self._failed("did not start")

    def _end_chief(self) -> None:
        """Lets it leave by itself once the connection is closed."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._chief.wait(10)
        child.stop([self._chief], 10)

    def _ask(self, question: Any, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        try:
            self._connection.send(question)
            while not self._connection.poll(1):
                if self._chief.poll() is not None or time.monotonic() > deadline:
                    raise EOFError
            return self._connection.recv()
        except (EOFError, OSError) as error:
            # It hangs up before it has said why.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._chief.wait(10)
            raise self._failed("stopped or is too slow") from error

    def _failed(self, what: str) -> ConfigError:
        lines = (self._directory / "chief.log").read_text(errors="replace").splitlines()
        return ConfigError(
            f"the chief of {self.way.name!r} {what}; its log, beside those of workers and servers "
            f"in {self._directory}, ends with:\n    " + "\n    ".join(lines[-8:])
        )


class _ClusterOnHosts(LocalCluster):
    """A local cluster each of whose processes is on a host of its own."""

    def __init__(
        self, hosts: network.Hosts, num_workers: int, num_servers: int, log_dir: pathlib.Path
    ) -> None:
        addresses = ",".join(hosts.addresses.values())
        super().__init__(
            num_workers,
            num_servers,
            log_dir,
            environment={"no_grpc_proxy": addresses},
            start_timeout=_START_SECONDS,
            say=lambda line: None,
        )
        self._hosts = hosts
        self.cluster = {
            role: [f"{hosts.addresses[f'{role}-{i}']}:{_PORT}" for i in range(count)]
            for role, count in (("chief", 1), ("worker", num_workers), ("ps", num_servers))
        }

    def _start(self, role: str, index: int) -> subprocess.Popen:
        with self._hosts.inside(f"{role}-{index}"):
            return super()._start(role, index)


def host_names(num_workers: int = 2, num_servers: int = 2) -> list[str]:
    """Returns the names of the hosts of a cluster, one for each process."""
    workers = [f"worker-{i}" for i in range(num_workers)]
    return ["chief-0", *workers, *(f"ps-{i}" for i in range(num_servers))]
