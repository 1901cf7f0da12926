"""Runs a part of a benchmark as the chief of a local cluster and brings its result back.

    def work(job):                     # In the chief: job in, result out, both JSON.
        strategy = chief.connect(amstf.AmsConfig(**job["config"]))
        ...
        return {"seconds": seconds}

    def main(arguments):
        if chief.was_given_a_job():
            return chief.do(work)
        result = chief.run("benchmarks.NAME", 2, 2, {"config": {"merge": "sync"}})

A cluster for each configuration: what a server keeps for one must not meet the next.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

import amstf  # isort: skip - selects Keras 2 before TensorFlow is imported
import tensorflow as tf

from benchmarks import network
from launch import native_logs
from launch.local_cluster import LocalCluster

_JOB = flags.DEFINE_string("job", None, "Used by the benchmark itself: a job on its cluster.")
_CLOCK_TICK = os.sysconf("SC_CLK_TCK")


def run(
    module: str,
    workers: int,
    servers: int,
    job: Mapping[str, Any],
    *,
    timeout: float = 900,
    say: Callable[[str], None] | None = None,
) -> Any:
    """Starts a cluster and a module as its chief, with a loopback device of their own if allowed.

    Args:
        module: The module, whose `main` calls `do`.
        workers: Number of workers (W).
        servers: Number of parameter servers (S).
        job: What `do` passes to the module's function; JSON.
        timeout: Seconds until the chief is killed.
        say: As for `LocalCluster`, which says that a worker has died.

    Returns:
        What that function returned.

    Raises:
        subprocess.CalledProcessError: If the chief failed; it has said why.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "job.json")
        path.write_text(json.dumps(job))
        # Flags that a benchmark was given hold for its chief too: --cache.
        command = [sys.executable, "-m", module, *sys.argv[1:], f"--job={path}"]
        with network.own_loopback(), LocalCluster(workers, servers, directory, say=say) as cluster:
            code = cluster.run_chief(command, timeout=timeout)
        if code:
            raise subprocess.CalledProcessError(code, command)
        return json.loads(path.with_name("result.json").read_text())


def was_given_a_job() -> bool:
    """Whether this process is a chief that `run` started."""
    return _JOB.value is not None


def do(work: Callable[[dict[str, Any]], Any]) -> None:
    """As the chief: does the job and writes down what `work` returns."""
    path = pathlib.Path(_JOB.value)
    result = work(json.loads(path.read_text()))
    path.with_name("result.json").write_text(json.dumps(result))


def connect(config: amstf.AmsConfig) -> amstf.AdvancedModelServerStrategy:
    """As the chief: the strategy of the cluster."""
    with native_logs.quieted():
        return amstf.AdvancedModelServerStrategy(
            tf.distribute.cluster_resolver.TFConfigClusterResolver(), config=config
        )


def job_directory() -> pathlib.Path:
    """As the chief: where job and logs are."""
    return pathlib.Path(_JOB.value).parent


def pid_of(task: str) -> int:
    """As the chief: the process of "worker-0", "ps-1", ..."""
    return int((job_directory() / f"{task}.pid").read_text())


def processor_seconds() -> dict[str, float]:
    """As the chief: processor time so far of each task, by "worker-0", "ps-1", ..., and of all.

    Unlike time on a clock it means the same on a machine with more processes than cores.
    """
    seconds = {}
    for path in job_directory().glob("*.pid"):
        if path.stem == "chief-0":  # This process: below.
            continue
        # The name of the program, in parentheses, may hold blanks.
        fields = pathlib.Path("/proc", f"{pid_of(path.stem)}", "stat").read_text().rpartition(")")
        user, system = fields[2].split()[11:13]
        seconds[path.stem] = (int(user) + int(system)) / _CLOCK_TICK
    seconds["chief"] = time.process_time()
    return seconds
