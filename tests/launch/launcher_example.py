"""A launcher program: a local 2x2 cluster and a chief, as `launch.train --cluster=2x2` is one."""

import os
import pathlib
import sys

from launch import program
from launch.local_cluster import LocalCluster, parse_cluster


def main(arguments: list[str]) -> int:
    log_dir, *command = arguments
    assert "tensorflow" not in sys.modules, "the launcher must start at once"
    workers, servers = parse_cluster(os.environ.get("CLUSTER", "1x1"))
    chief = command or [str(pathlib.Path(__file__).with_name("chief_example.py"))]
    with LocalCluster(workers, servers, log_dir) as cluster:
        return cluster.run_chief(
            [sys.executable, "-u", *chief],
            interrupt_grace=15,
            max_restarts=int(os.environ.get("MAX_RESTARTS", "0")),
        )


if __name__ == "__main__":
    program.run(main, argument_names=["LOG_DIR", "SCRIPT"])
