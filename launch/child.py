"""Child processes that never outlive the process that started them, not even if it is SIGKILLed."""

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import IO

# Tells a process that its launcher reports lost workers and ends workers and servers itself.
LOCAL_CLUSTER = "AMSTF_LOCAL_CLUSTER"
_PR_SET_PDEATHSIG = 1
# Looked up at import: between fork and exec a child should load and import nothing.
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def is_in_local_cluster() -> bool:
    """Whether `LocalCluster` of this machine has started this process."""
    return os.environ.get(LOCAL_CLUSTER) == "1"


def spawn(
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    stdout: IO | int | None = None,
    stderr: IO | int | None = None,
) -> subprocess.Popen:
    """Starts a command in a process group of its own, tied to the life of this process.

    A group of its own, so that ctrl-C on the terminal reaches the launcher alone, which decides who
    is to be told, and in which order. The kernel sends the child SIGKILL when the *thread* that
    called this ends: call it from the main thread, or from one that lives as long as the child.

    Args:
      command: the program and its arguments.
      environment: the child's whole environment.
      stdout: as for `subprocess.Popen`; by default this process's own.
      stderr: likewise.

    Returns:
      The running process. Its stdin is empty: a background group may not read the terminal.
    """
    parent = os.getpid()

    def tie_to_parent() -> None:  # Loads and locks nothing: threads may hold locks at the fork.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # The parent went between fork and prctl: nobody would tell.
            os._exit(1)

    return subprocess.Popen(
        list(command),
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        process_group=0,
        preexec_fn=tie_to_parent,
    )


def stop(processes: Sequence[subprocess.Popen], grace: float) -> list[subprocess.Popen]:
    """Asks processes to end (SIGTERM), waits for all of them, and kills those that stay.

    Args:
      processes: may hold some that have ended.
      grace: seconds that they have together.

    Returns:
      Those that had to be killed.
    """
    deadline = time.monotonic() + grace
    for process in processes:
        process.terminate()
    killed = []
    for process in processes:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            killed.append(process)
    for process in killed:
        process.kill()
        process.wait()
    return killed


def describe_end(process: subprocess.Popen) -> str:
    """`exit code 2` or `killed by SIGKILL`, for messages."""
    code = process.returncode
    return f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
