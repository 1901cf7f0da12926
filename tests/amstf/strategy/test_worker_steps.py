"""Each training step counts for the worker that did it, and a suspended worker stops nobody."""

import json
import pathlib

import pytest

from amstf.config import MERGES, SYNC
from tests.amstf.strategy.worker_steps_chief import CLOSURES, STEPS, STEPS_AT_ONCE
from tests.cluster import run_on_cluster

CHIEF = pathlib.Path(__file__).with_name("worker_steps_chief.py")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    directory = tmp_path_factory.mktemp("steps")
    chief = run_on_cluster(CHIEF, timeout=240, arguments=(str(directory),))
    assert chief.returncode == 0, chief
    return json.loads(chief.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("merge", MERGES)
def test_training_steps_count_and_evaluation_does_not(report, merge):
    found = report[merge]
    assert found["begin"] == {"steps": [0, 0], "latest": [0, 0]}
    for name, steps in (("fit", STEPS), ("several at once", STEPS + STEPS_AT_ONCE)):
        assert sum(found[name]["steps"]) == steps, name
        assert max(found[name]["latest"]) == steps
        if merge == SYNC:
            assert found[name]["steps"] == [steps // 2, steps // 2]
            assert sorted(found[name]["latest"]) in ([steps - 1, steps], [steps, steps])
    assert found["evaluated"] == found["several at once"]


@pytest.mark.slow
def test_a_suspended_worker_stops_nobody_and_is_known(report):
    found = report["suspended"]
    assert found["meanwhile"] == [CLOSURES - 1, 0]
    # Worker 1 did its latest step before all of them.
    assert found["latest"][0] - found["latest"][1] >= CLOSURES - 1
    assert found["all"] == found["updates"] >= found["scheduled"]
