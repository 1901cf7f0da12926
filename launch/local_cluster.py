"""A parameter-server cluster of this machine: workers and servers as processes on loopback.

    with LocalCluster(2, 2, "run/logs") as cluster:
        code = cluster.run_chief([sys.executable, "-m", "launch.train", "--dataset=data"])

Imports no TensorFlow, so that it starts and refuses at once. See docs/design/launch.md.
"""

import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Self

from amstf.errors import ConfigError
from launch import child, loopback, tf_config
from launch.chief_watch import ChiefWatch
from launch.restarts import Restarts

# Below Linux's range for outgoing connections: no passing client can hold one of these.
_PORTS = range(20000, 32000)
_HOST = "127.0.0.1"
_ROOT = pathlib.Path(__file__).resolve().parent.parent


def parse_cluster(text: str) -> tuple[int, int]:
    """Reads `2x3`: 2 workers and 3 parameter servers.

    Raises:
      ConfigError: it is not of that form, or there are none of one kind.
    """
    match = re.fullmatch(r"(\d{1,3})x(\d{1,3})", text.strip())
    if not match or not all(int(number) for number in match.groups()):
        raise ConfigError(
            f"--cluster: got {text!r}, wanted WORKERSxSERVERS with at least one of each, e.g. 2x2"
        )
    return int(match[1]), int(match[2])


class LocalCluster:
    """Workers and servers that live as long as a `with` block, and a chief that runs inside it.

    The chief is a child process too. When it has left, workers and then servers are ended, by
    process id: the other way round TensorFlow prints pages of gRPC errors. If this process is
    killed, even by SIGKILL, the kernel ends all of them. Enter it from the main thread.

    Args:
      num_workers: workers, at least 1.
      num_servers: parameter servers, at least 1.
      log_dir: directory for `worker-0.log`, `worker-0.pid`, ...; logs of an earlier run in it are
        overwritten.
      environment: variables for every process, on top of this process's own.
      intra_op_threads: threads that one op of a worker or server may use; 0: TensorFlow decides.
      start_timeout: seconds until all must answer.
      grace: seconds that processes have to end after SIGTERM.
      say: prints a line for the person at the terminal; default: to stderr.
    """

    def __init__(
        self,
        num_workers: int,
        num_servers: int,
        log_dir: str | os.PathLike,
        *,
        environment: Mapping[str, str] | None = None,
        intra_op_threads: int = 0,
        start_timeout: float = 90,
        grace: float = 5,
        say: Callable[[str], None] | None = None,
    ):
        if num_workers < 1 or num_servers < 1:
            raise ConfigError(
                f"a cluster needs at least one worker and one server: got {num_workers} workers "
                f"and {num_servers} servers"
            )
        self.log_dir = pathlib.Path(log_dir)
        self.cluster = _on_free_ports(num_workers, num_servers)
        self.processes: dict[tuple[str, int], subprocess.Popen] = {}
        self._extra_environment = dict(environment or {})
        self._intra_op_threads = intra_op_threads
        self._start_timeout = start_timeout
        self._grace = grace
        self._say = say or (lambda line: print(line, file=sys.stderr, flush=True))

    def __enter__(self) -> Self:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        for role, addresses in self.cluster.items():
            for index in range(len(addresses)):
                self.log_path(role, index).unlink(missing_ok=True)
        self._start_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def tf_config(self, role: str, index: int = 0) -> str:
        """Returns the TF_CONFIG of one task as JSON."""
        return tf_config.build(self.cluster, role, index)

    def environment(self, role: str = "chief", index: int = 0) -> dict[str, str]:
        """Returns the whole environment for the process of one task."""
        environment = {**os.environ, **self._extra_environment}
        # Lets a lost worker or server be reported to the chief at once, as TensorFlow advises.
        environment.setdefault("GRPC_FAIL_FAST", "use_caller")
        # gRPC would ask an HTTP proxy for loopback addresses too, and hang.
        past_proxy = environment.get("no_grpc_proxy") or environment.get("no_proxy")
        environment["no_grpc_proxy"] = ",".join(filter(None, [past_proxy, _HOST, "localhost"]))
        if all(a.startswith(_HOST) for addresses in self.cluster.values() for a in addresses):
            # TensorFlow would listen on every interface.
            environment["LD_PRELOAD"] = loopback.preload(environment.get("LD_PRELOAD"))
        # All processes share one machine's GPUs, if it has any.
        environment.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [str(_ROOT), environment.get("PYTHONPATH")])
        )
        if role != "chief" and environment.get("TF_CPP_MIN_LOG_LEVEL") == "3":
            environment["TF_CPP_MIN_LOG_LEVEL"] = "1"  # The terminal is quiet, a log need not be.
        environment[child.LOCAL_CLUSTER] = "1"  # Lost workers are reported here: see ChiefWatch.
        environment["TF_CONFIG"] = self.tf_config(role, index)
        return environment

    def log_path(self, role: str, index: int) -> pathlib.Path:
        """Returns the file with the output of a worker or server."""
        return self.log_dir / f"{role}-{index}.log"

    def run_chief(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdout: IO | int | None = None,
        stderr: IO | int | None = None,
        timeout: float | None = None,
        interrupt_grace: float = 30,
        max_restarts: int = 0,
    ) -> int:
        """Runs the chief on this terminal until it leaves, then stops workers and servers.

        SIGINT and SIGTERM that come meanwhile are passed on to the chief, once each; SIGHUP as
        SIGTERM. A worker that dies is started again, and the chief goes on. When a server dies, or
        the last worker for good, the chief is given `interrupt_grace` seconds to find out; then, as
        after a chief that is killed, everything is started again.

        Args:
          command: the program and its arguments.
          environment: variables for the chief, on top of `environment()`.
          stdout: as for `subprocess.Popen`; by default this process's own.
          stderr: likewise.
          timeout: seconds after which the chief is killed; None: no limit.
          interrupt_grace: seconds that the chief has to end, e.g. to keep a checkpoint, once it was
            interrupted or its cluster is lost; then it is killed.
          max_restarts: times that each worker is started again, and that everything is.

        Returns:
          The last chief's exit code; 128 + n if signal n ended it (130: interrupted).

        Raises:
          TimeoutError: the chief ran longer than `timeout`.
        """
        restarts = Restarts(max_restarts)
        while True:
            watch = ChiefWatch(
                self.processes,
                say=self._say,
                grace=interrupt_grace,
                log_path=self.log_path,
                start=self._start,
                max_restarts=max_restarts,
            )
            chief = None
            try:
                with watch.forwarded_signals():
                    chief = child.spawn(
                        command,
                        environment={**self.environment(), **(environment or {})},
                        stdout=stdout,
                        stderr=stderr,
                    )
                    self._pid_path("chief", 0).write_text(f"{chief.pid}\n")
                    code = watch.wait(chief, timeout)
            finally:
                if chief is not None and chief.poll() is None:
                    chief.kill()
                    chief.wait()
                self._pid_path("chief", 0).unlink(missing_ok=True)
                self.stop()
            delay = restarts.next_delay() if watch.wants_restart else None
            if delay is None:
                return code
            self._say(f"chief, servers and workers start again in {delay:g} s ({restarts})")
            time.sleep(delay)
            # Others may have taken the old ports meanwhile.
            self.cluster = _on_free_ports(len(self.cluster["worker"]), len(self.cluster["ps"]))
            self._start_all(max_restarts)

    def stop(self) -> None:
        """Ends workers, then servers, and removes their pid files. May be called again."""
        for role in ("worker", "ps"):
            tasks = {task: process for task, process in self.processes.items() if task[0] == role}
            child.stop(list(tasks.values()), self._grace)
            for role_of_task, index in tasks:
                self._pid_path(role_of_task, index).unlink(missing_ok=True)
                del self.processes[role_of_task, index]

    def _start_all(self, max_restarts: int = 0) -> None:
        """Starts workers and servers; one that is killed meanwhile, up to `max_restarts` times."""
        try:
            for role in ("ps", "worker"):
                for index in range(len(self.cluster[role])):
                    self._start(role, index)
            self._wait_until_ready(max_restarts)
        except BaseException:  # ctrl-C during the start must not leave half a cluster either.
            self.stop()
            raise

    def _start(self, role: str, index: int) -> subprocess.Popen:
        command = [sys.executable, "-u", "-m", "launch.server"]
        if self._intra_op_threads:
            command.append(f"--intra_op_threads={self._intra_op_threads}")
        with open(self.log_path(role, index), "ab") as log:  # Why the one before died is in it.
            process = child.spawn(
                command, environment=self.environment(role, index), stdout=log, stderr=log
            )
        self.processes[role, index] = process
        self._pid_path(role, index).write_text(f"{process.pid}\n")
        return process

    def _pid_path(self, role: str, index: int) -> pathlib.Path:
        return self.log_dir / f"{role}-{index}.pid"

    def _wait_until_ready(self, max_restarts: int) -> None:
        """Waits until all ports answer; TensorFlow's own wait is silent for minutes."""
        deadline = time.monotonic() + self._start_timeout
        missing = list(self.processes)
        restarts = {task: Restarts(max_restarts) for task in missing}
        while missing:
            for task in list(missing):
                process = self.processes[task]
                killed = process.poll() is not None and process.returncode < 0
                if killed and (delay := restarts[task].next_delay()) is not None:
                    self._say(
                        f"warning: {task[0]} {task[1]} died while starting "
                        f"({child.describe_end(process)}), log: {self.log_path(*task)}; it starts "
                        f"again in {delay:g} s ({restarts[task]})"
                    )
                    time.sleep(delay)
                    self._start(*task)
                    deadline = time.monotonic() + self._start_timeout
                elif process.returncode is not None:
                    raise ConfigError(
                        f"{task[0]} {task[1]} died while starting "
                        f"({child.describe_end(process)}); {self._log_says(*task)}",
                        *self._end_of_log(*task),
                    )
                elif _answers(self.cluster[task[0]][task[1]]):
                    missing.remove(task)
            if missing and time.monotonic() > deadline:
                names = ", ".join(f"{role} {index}" for role, index in missing)
                raise ConfigError(
                    f"{names} did not answer within {self._start_timeout:g} s; "
                    f"{self._log_says(*missing[0])}",
                    *self._end_of_log(*missing[0]),
                )
            if missing:
                time.sleep(0.05)

    def _log_says(self, role: str, index: int) -> str:
        path = self.log_path(role, index)
        return f"its log {path} {'ends with:' if self._end_of_log(role, index) else 'is empty'}"

    def _end_of_log(self, role: str, index: int, lines: int = 8) -> list[str]:
        text = self.log_path(role, index).read_text(errors="replace").strip()
        return text.splitlines()[-lines:]


def _on_free_ports(num_workers: int, num_servers: int) -> dict[str, list[str]]:
    """Chooses loopback ports that nobody listens on, one per task and one for the chief."""
    count = 1 + num_workers + num_servers
    ports: list[int] = []
    for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            break
    else:
        raise ConfigError(f"found no {count} free ports from {_PORTS.start} to {_PORTS.stop}")
    addresses = [f"{_HOST}:{port}" for port in ports]
    return {
        "chief": addresses[:1],
        "worker": addresses[1 : 1 + num_workers],
        "ps": addresses[1 + num_workers :],
    }


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False
