"""Processes of a training are found and killed; what a kill cost is reckoned by hand."""

import os
import signal
import subprocess
import sys

import pytest

from benchmarks import killer
from launch.run_directory import RunDirectory

# A launcher of one task, which it starts again when it is killed; ends after the second kill.
LAUNCHER = """
import pathlib, subprocess, sys
logs, steps = pathlib.Path(sys.argv[1], "logs"), pathlib.Path(sys.argv[1], "history.csv")
logs.mkdir()
for step in (10, 20):
    task = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (logs / "ps-0.pid").write_text(f"{task.pid}\\n")
    steps.write_text(f"step\\n{step}\\n")
    task.wait()
"""


def test_seconds_lost_are_time_less_the_steps_that_it_brought():
    kills = [
        killer.Kill("server", "ps-0", seconds=10.0, step=50),
        killer.Kill("server", "ps-0", seconds=30.0, step=40),  # It went back 10 steps.
        killer.Kill("worker", "worker-1", seconds=60.0, step=300),
    ]
    lost = killer.seconds_lost(kills, 10.0, end=70.0, last_step=390)
    assert lost == {"worker": [1.0], "server": [21.0, 4.0], "chief": []}


def test_tasks_are_killed_until_the_launcher_has_ended(tmp_path):
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(tmp_path)])
    kills = killer.watch(launcher, RunDirectory(tmp_path), killer.seeded(0), (0.5, 0.6))
    assert launcher.returncode == 0
    assert [(kill.kind, kill.task, kill.step) for kill in kills] == [
        ("server", "ps-0", 10),
        ("server", "ps-0", 20),
    ]


def test_a_process_of_somebody_else_is_left_alone(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "chief-0.pid").write_text(str(os.getpid()))
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1)"])
    assert killer.watch(launcher, RunDirectory(tmp_path), killer.seeded(0), (0.1, 0.2)) == []
    assert launcher.returncode == 0


def test_the_launcher_is_interrupted_with_this_process(tmp_path, monkeypatch):
    launcher = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(killer, "_tasks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        killer.watch(launcher, RunDirectory(tmp_path), killer.seeded(0), (0.1, 0.2))
    assert launcher.returncode == -signal.SIGINT
