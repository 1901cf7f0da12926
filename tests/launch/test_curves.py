"""Curves of a run are drawn when they are due."""

import os
import time

from launch import curves
from launch.step_logger import History


def test_a_young_drawing_stays_while_a_run_goes_on(tmp_path):
    history, path = History(tmp_path / "history.csv"), tmp_path / "curves.png"
    history.add(step=1, loss=0.7)
    curves.draw(history, path, "run", every_s=60.0)
    first = path.read_bytes()
    assert first.startswith(b"\x89PNG")
    history.add(step=2, loss=0.6)
    curves.draw(history, path, "run", every_s=60.0)
    assert path.read_bytes() == first
    old = time.time() - 61.0
    os.utime(path, (old, old))
    curves.draw(history, path, "run", every_s=60.0)
    second = path.read_bytes()
    assert second != first
    history.add(step=3, loss=0.5)
    curves.draw(history, path, "run")
    assert path.read_bytes() != second
