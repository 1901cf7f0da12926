"""tf.data service on this machine: dispatcher in this process, workers in processes beside it.

python -m benchmarks.data_service ADDRESS PORT     a worker; `DataService` starts them
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any, Self

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import tensorflow as tf

from amstf import ops
from launch import child, program

_SERVICE = tf.data.experimental.service
# Short, so that a death is known within seconds; TensorFlow's own are 30 s and a minute.
_HEARTBEAT_MS = 500
_WORKER_TIMEOUT_MS = 5_000


class DataService:
    """Dispatcher and workers, for as long as a `with` block.

    Args:
        num_workers: tf.data workers.
        log_dir: For what the workers print.
    """

    def __init__(self, num_workers: int, log_dir: str | os.PathLike) -> None:
        self._dispatcher = _SERVICE.DispatchServer(
            _SERVICE.DispatcherConfig(worker_timeout_ms=_WORKER_TIMEOUT_MS)
        )
        self._ports = [_free_port() for _ in range(num_workers)]
        self._log_dir = pathlib.Path(log_dir)
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> Self:
        self._processes = [self._start(worker) for worker in range(len(self._ports))]
        for process in self._processes:
            _wait_until_ready(process)
        return self

    def __exit__(self, *exception: object) -> None:
        for worker in range(len(self._processes)):
            self.kill(worker)

    def share(self, dataset: tf.data.Dataset) -> Callable[..., tf.data.Dataset]:
        """Has the workers run a pipeline, each element of its source on one of them (dynamic).

        Args:
            dataset: The pipeline.

        Returns:
            A function, of an input context or nothing, that gives what every training worker reads
            from: all share one job, first come, first served.
        """
        # Compression costs processor time, and these bytes do not leave the machine.
        number = _SERVICE.register_dataset(self._dispatcher.target, dataset, compression=None)
        job = uuid.uuid4().hex

        def shared(context: Any = None) -> tf.data.Dataset:
            del context
            return _SERVICE.from_dataset_id(
                _SERVICE.ShardingPolicy.DYNAMIC,
                self._dispatcher.target,
                number,
                element_spec=dataset.element_spec,
                job_name=job,
            )

        return shared

    def kill(self, worker: int) -> None:
        """Ends a worker by SIGKILL."""
        self._processes[worker].kill()
        self._processes[worker].wait()

    def restart(self, worker: int) -> None:
        """Starts a worker that was killed, at its old address."""
        self._processes[worker] = self._start(worker)
        _wait_until_ready(self._processes[worker])

    def _start(self, worker: int) -> subprocess.Popen:
        address = self._dispatcher.target.partition("://")[2]
        command = [sys.executable, "-m", "benchmarks.data_service", address]
        with open(self._log_dir / f"tf-data-{worker}.log", "ab") as log:
            return child.spawn(
                [*command, str(self._ports[worker])],
                environment=os.environ,
                stdout=subprocess.PIPE,
                stderr=log,
            )


def _free_port() -> int:
    while True:
        # Below the ports of outgoing connections, which would take it while a worker is dead.
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _wait_until_ready(process: subprocess.Popen) -> None:
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        raise RuntimeError(f"a tf.data worker ended: {process.args}")


def main(arguments: list[str]) -> None:
    """Serves as a worker until it is killed."""
    address, port = arguments
    ops.load_library()
    worker = _SERVICE.WorkerServer(
        _SERVICE.WorkerConfig(
            dispatcher_address=address,
            worker_address=f"localhost:{port}",
            port=int(port),
            heartbeat_interval_ms=_HEARTBEAT_MS,
        )
    )
    print("ready", flush=True)
    worker.join()


if __name__ == "__main__":
    program.run(main, argument_names=["ADDRESS", "PORT"])
