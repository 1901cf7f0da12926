"""Synchronous rounds go on when a worker is killed or has no data left."""

import json
import pathlib

import pytest

from tests.amstf.strategy.lost_workers_chief import ROUNDS_AFTER, ROUNDS_BEFORE, TIMEOUT_MS
from tests.cluster import run_on_cluster

CHIEF = pathlib.Path(__file__).with_name("lost_workers_chief.py")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["0", "2", "no data"], ids=["leader", "follower", "no data"])
def test_rounds_shrink_and_nothing_hangs(tmp_path, what):
    chief = run_on_cluster(
        CHIEF, workers=3, servers=2, timeout=180, arguments=(str(tmp_path), what)
    )
    assert chief.returncode == 0, chief
    report = json.loads(chief.stdout)
    rounds = report["rounds"]
    assert report["finite"]
    assert rounds["shrunk"] >= 1, "the round that the lost worker did not enter"
    # 1 where the last steps did not make up a whole round.
    assert rounds["live"] in (1, 2)
    if what != "no data":
        assert rounds["rounds"] >= ROUNDS_BEFORE + ROUNDS_AFTER
        # At most the round of the death changed nothing.
        assert report["steps"] >= rounds["rounds"] - 2
    # The death is noticed at a few points of one step at most, then nobody waits any more.
    assert report["seconds_after"] < 5 * TIMEOUT_MS / 1000 + 20, report
