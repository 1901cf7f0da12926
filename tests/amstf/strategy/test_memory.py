"""Nothing leaks: memory of workers and servers over 2,000 steps, and what servers still hold."""

import json
import pathlib

import pytest

from tests.amstf.strategy.memory_chief import STEPS
from tests.cluster import run_on_cluster

CHIEF = pathlib.Path(__file__).with_name("memory_chief.py")
# A leak of one request's ids and rows (30 ids, 4 floats) and of its gradients for E (2,000 floats)
# would be 13 MB over 1,500 steps.
BOUND_MB = 12


@pytest.mark.slow
@pytest.mark.parametrize("merge", ["async", "sync"])
def test_memory_is_flat(tmp_path, merge):
    chief = run_on_cluster(CHIEF, timeout=280, arguments=(str(tmp_path), merge))
    assert chief.returncode == 0, chief
    report = json.loads(chief.stdout)
    early, _, late = report["memory"]
    growth = {name: late[name] - early[name] for name in early}
    assert max(growth.values()) < BOUND_MB, (growth, report["memory"])
    for server in report["servers"]:
        assert server["requests"] == sum(STEPS[merge])
        assert server["open_requests"] == 0
    if merge == "sync":
        assert report["rounds"]["waiting"] == 0
        assert report["rounds"]["rounds"] == sum(STEPS[merge]) // 2
