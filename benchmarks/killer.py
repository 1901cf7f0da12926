"""Kills processes of a training on this machine, and reckons what that cost."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import random
import signal
import subprocess
import time
from collections.abc import Sequence

from launch.run_directory import RunDirectory
from launch.run_rows import read_rows

WORKER, SERVER, CHIEF = "worker", "server", "chief"
_ROLES = {"worker": WORKER, "ps": SERVER, "chief": CHIEF}


@dataclasses.dataclass(frozen=True)
class Kill:
    """One process that was killed.

    Attributes:
        kind: What it was: "worker", "server" or "chief".
        task: Which one, as "worker-2".
        seconds: When, since the start of the launcher.
        step: The training's last known step then.
    """

    kind: str
    task: str
    seconds: float
    step: int


def seeded(seed: int) -> random.Random:
    """Chance that is the same each time."""
    return random.Random(seed)  # noqa: S311 - no secret


def watch(
    launcher: subprocess.Popen,
    run: RunDirectory,
    chance: random.Random | None,
    pause: tuple[float, float],
) -> list[Kill]:
    """Waits for the end of a training and kills one of its processes again and again.

    Args:
        launcher: `launch.train --cluster=...`, started just now. It is not killed, unless this
            process is interrupted.
        run: Where it trains.
        chance: Chooses moments and victims; None kills nothing.
        pause: Least and greatest time between two kills, seconds.

    Returns:
        What was killed, in order.
    """
    started = time.monotonic()
    kills: list[Kill] = []
    try:
        while launcher.poll() is None:
            timeout = None if chance is None else chance.uniform(*pause)
            with contextlib.suppress(subprocess.TimeoutExpired):
                launcher.wait(timeout)
                break
            assert chance is not None
            alive = _tasks(run, launcher.pid)
            if not alive:  # Between the end of one cluster and the start of the next.
                continue
            task = chance.choice(sorted(alive))
            kill = Kill(
                _ROLES[task.partition("-")[0]], task, time.monotonic() - started, _step(run)
            )
            os.kill(alive[task], signal.SIGKILL)
            kills.append(kill)
            print(f"  {kill.seconds:6.0f} s, step {kill.step}: killed {task}", flush=True)
    finally:
        if launcher.poll() is None:
            launcher.send_signal(signal.SIGINT)
            launcher.wait()
    return kills


def seconds_lost(
    kills: Sequence[Kill], steps_per_second: float, end: float, last_step: int
) -> dict[str, list[float]]:
    """Reckons what each kill cost: the time until the next one, less what the steps are worth.

    Steps that are repeated after a restart count once, so going back to a checkpoint is a part of
    the cost. A kill that comes before a restart is over takes the rest of it on its own account.

    Args:
        kills: In order.
        steps_per_second: Of a training in peace.
        end: When the training had ended, seconds since its start.
        last_step: Its steps.

    Returns:
        Seconds of each kill, by kind.

    Example:
        >>> first = Kill("worker", "worker-0", seconds=30.0, step=100)
        >>> second = Kill("chief", "chief-0", seconds=50.0, step=290)
        >>> seconds_lost([first, second], 10.0, end=80.0, last_step=400)
        {'worker': [1.0], 'server': [], 'chief': [19.0]}
    """
    lost: dict[str, list[float]] = {WORKER: [], SERVER: [], CHIEF: []}
    ends = [(kill.seconds, kill.step) for kill in kills[1:]] + [(end, last_step)]
    for kill, (seconds, step) in zip(kills, ends, strict=True):
        gained = (step - kill.step) / steps_per_second
        lost[kill.kind].append(seconds - kill.seconds - gained)
    return lost


def _tasks(run: RunDirectory, launcher: int) -> dict[str, int]:
    """Process ids of the launcher's living children by task."""
    found = {}
    for path in run.logs.glob("*-*.pid"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(path.read_text())
            # The process's name, in parentheses, may hold anything.
            state, parent = (
                pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
            )
            if int(parent) == launcher and state != "Z":
                found[path.stem] = pid
    return found


def _step(run: RunDirectory) -> int:
    if not run.history.exists():
        return 0
    rows = read_rows(run.history)[1]
    return int(rows[-1]["step"]) if rows else 0
