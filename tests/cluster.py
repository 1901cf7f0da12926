"""Runs a chief against a real cluster of local processes, for the tests of everyone.

    chief = run_on_cluster('''
        from tests.cluster import connect
        strategy = connect()
        with strategy.scope():
            ...
        print("result", value)
    ''')
    assert chief.returncode == 0, chief

The source starts with a line break; a path of a script works too.
"""

import dataclasses
import json
import os
import pathlib
import sys
import tempfile
import textwrap
import time
import uuid
from collections.abc import Mapping

from launch.local_cluster import LocalCluster

_MARK = "AMSTF_TEST_CLUSTER"
_ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class CompletedChief:
    """What a chief left behind.

    Attributes:
      returncode: its exit code; 128 + n if signal n ended it.
      stdout, stderr: what it printed.
      logs: what each worker and server printed, by `worker-0`, `ps-1`, ...
      said: the launcher's own lines, e.g. that a worker died.
    """

    returncode: int
    stdout: str
    stderr: str
    logs: Mapping[str, str]
    said: tuple[str, ...]

    def __str__(self) -> str:
        """All of it, so that `assert chief.returncode == 0, chief` explains a failure."""
        parts = {"stdout": self.stdout, "stderr": self.stderr, "launcher": "\n".join(self.said)}
        shown = [f"--- {name}\n{text}" for name, text in {**parts, **self.logs}.items() if text]
        return "\n".join([f"exit code {self.returncode}", *shown])


def run_on_cluster(
    script: str | os.PathLike,
    *,
    workers: int = 2,
    servers: int = 2,
    timeout: float = 120,
    env: Mapping[str, str] | None = None,
    arguments: tuple[str, ...] = (),
) -> CompletedChief:
    """Runs a Python script as the chief of a new cluster; checks that no process is left.

    Args:
      script: a path, or source text (anything with a line break; it may be indented).
      workers, servers: the size of the cluster.
      timeout: seconds for start and run together.
      env: variables for the chief, the workers and the servers.
      arguments: for the script.

    Returns:
      What the chief printed, and how it ended.

    Raises:
      TimeoutError: the chief took too long; it and the cluster are gone.
    """
    mark = uuid.uuid4().hex
    deadline = time.monotonic() + timeout
    said: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        path = pathlib.Path(script) if "\n" not in str(script) else directory / "chief.py"
        if "\n" in str(script):
            path.write_text(textwrap.dedent(str(script)))
        cluster = LocalCluster(
            workers,
            servers,
            directory / "logs",
            environment={"PYTHONPATH": str(_ROOT), **(env or {}), _MARK: mark},
            start_timeout=timeout,
            say=said.append,
        )
        out, err = directory / "out", directory / "err"
        try:
            with cluster, open(out, "wb") as stdout, open(err, "wb") as stderr:
                code = cluster.run_chief(
                    [sys.executable, str(path), *arguments],
                    stdout=stdout,
                    stderr=stderr,
                    timeout=max(1, deadline - time.monotonic()),
                )
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{out.read_text()}\n{err.read_text()}") from None
        finally:
            left = processes_with(_MARK, mark)
            assert not left, f"processes left over: {left}"
        logs = {log.stem: log.read_text() for log in sorted((directory / "logs").glob("*.log"))}
        return CompletedChief(code, out.read_text(), err.read_text(), logs, tuple(said))


def connect():
    """For chief scripts: a quiet plain ParameterServerStrategy of the cluster in TF_CONFIG."""
    import launch  # noqa: F401 - quiets TensorFlow before it is imported
    from launch import native_logs

    with native_logs.quieted():
        import tensorflow as tf

        from amstf import ops

        ops.load_library()
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        return tf.distribute.ParameterServerStrategy(resolver)


def pid_of(role: str, index: int) -> int:
    """For chief scripts: the process of a worker or server of this cluster."""
    for pid in processes_with(_MARK, os.environ[_MARK]):
        environment = pathlib.Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
        for line in environment:
            if line.startswith(b"TF_CONFIG="):
                task = json.loads(line.removeprefix(b"TF_CONFIG="))["task"]
                if task == {"type": role, "index": index}:
                    return pid
    raise LookupError(f"no process of {role} {index}")


def processes_with(variable: str, value: str) -> list[int]:
    """Returns the ids of running processes that were started with an environment variable."""
    wanted = f"{variable}={value}".encode()
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:  # Another user's, or gone meanwhile.
            continue
    return found
