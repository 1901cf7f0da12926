"""The evaluator of a local cluster: a process beside it, which outlives the chief for a while."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Self

from launch import child
from launch.local_cluster import LocalCluster


class LocalEvaluator:
    """An evaluator that lives as long as a `with` block; its output goes to the cluster's logs.

    Args:
      cluster: tells the environment, and where logs go.
      command: the program that evaluates.
      grace: seconds that it has to end after SIGTERM.
    """

    def __init__(self, cluster: LocalCluster, command: Sequence[str], grace: float = 5):
        self._environment = cluster.environment("evaluator")
        self._command = command
        self._grace = grace
        self._log = cluster.log_path("evaluator", 0)
        self._pid_path = self._log.with_suffix(".pid")

    def __enter__(self) -> Self:
        self._log.unlink(missing_ok=True)
        self._start()
        return self

    def __exit__(self, *exception: object) -> None:
        child.stop([self._process], self._grace)
        self._pid_path.unlink(missing_ok=True)

    def wait(self) -> int:
        """Waits until it has evaluated the last checkpoint, once the chief is done.

        Returns:
          Its exit code. One that has died is started once more: it goes on where it was.
        """
        if self._process.poll():
            self._report("warning", "; it starts again, for what is left")
            self._start()
        code = self._process.wait()
        if code:
            self._report("error")
        return 128 - code if code < 0 else code

    def _start(self) -> None:
        with open(self._log, "ab") as log:
            self._process: subprocess.Popen = child.spawn(
                self._command, environment=self._environment, stdout=log, stderr=log
            )
        self._pid_path.write_text(f"{self._process.pid}\n")

    def _report(self, kind: str, more: str = "") -> None:
        ended = child.describe_end(self._process)
        print(f"{kind}: the evaluator died ({ended}), log: {self._log}{more}", file=sys.stderr)
