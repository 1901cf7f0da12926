"""Merged requests, model servers of their own for fields, and an E that layers share."""

import json
import pathlib

import pytest

from tests.cluster import run_on_cluster

CHIEF = pathlib.Path(__file__).with_name("merging_chief.py")
STEPS = 9


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    directory = tmp_path_factory.mktemp("merging")
    chief = run_on_cluster(CHIEF, timeout=240, arguments=(str(directory),))
    assert chief.returncode == 0, chief
    assert not chief.stderr.strip(), chief
    assert not chief.said, chief
    return json.loads(chief.stdout)


EXACT = ["none", "async", "async at once", "sync without updates"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_merging_changes_no_result(report, name):
    """Predictions, losses and gradients are those of one process, and each counts once."""
    assert report[name]["own"] < 1e-5
    assert report[name]["embedding"] < 1e-5 * 3 * 3


@pytest.mark.slow
def test_bfloat16_is_near(report):
    assert 1e-6 < report["bfloat16"]["own"] < 0.02
    assert report["bfloat16"]["embedding"] < 0.1


@pytest.mark.slow
def test_only_under_async_requests_meet(report):
    for name in EXACT:
        servers = report[name]["servers"]
        # ads on server 0, behaviours on server 1, shops on both.
        assert [server["requests"] for server in servers] == [2 * STEPS, 2 * STEPS]
        assert all(server["open_requests"] == 0 for server in servers)
        merged = sum(server["merged"] for server in servers)
        rounds = sum(server["rounds"] for server in servers)
        if name == "async":
            assert merged and rounds < 4 * STEPS
            assert report[name]["skipped"], "who does not lead has no gradient for E"
            assert sum(server["ids_distinct"] for server in servers) < sum(
                server["ids_distinct"] for server in report["none"]["servers"]
            )
        elif name != "async at once":
            assert not merged and rounds == 4 * STEPS and not report[name]["skipped"]


@pytest.mark.slow
def test_each_server_holds_the_stores_that_it_was_given(report):
    for name in EXACT:
        images = [server["images"] for server in report[name]["servers"]]
        assert sum(images) == 3 * 40
        assert images == [40 + 20, 40 + 20]
