"""Meetings in real processes: 3 workers and 1 server, and what a killed worker does to the rest."""

import json
import sys

import pytest

from launch.local_cluster import LocalCluster
from tests.cluster import CompletedChief


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    directory = tmp_path_factory.mktemp("meeting")
    said = []
    # Not run_on_cluster: the chief has to find the pid files.
    with (
        LocalCluster(3, 1, directory / "logs", say=said.append) as cluster,
        open(directory / "out", "w+") as out,
        open(directory / "err", "w+") as err,
    ):
        command = [sys.executable, "-m", "tests.amstf.ops.meeting_chief", str(cluster.log_dir)]
        code = cluster.run_chief(command, stdout=out, stderr=err, timeout=150)
    logs = {log.stem: log.read_text() for log in sorted((directory / "logs").glob("*.log"))}
    texts = [(directory / name).read_text() for name in ("out", "err")]
    chief = CompletedChief(code, *texts, logs, tuple(said))
    assert chief.returncode == 0, chief
    return json.loads(chief.stdout)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_follower_that_is_killed_before_its_gradient(report):
    """The three merge; the leader's wait for the dead ends with it; its step runs elsewhere."""
    follower = report["follower"]
    counted = follower["counted"]
    assert (counted["requests"], counted["rounds"], counted["merged"]) == (4, 2, 3)
    assert counted["ids_asked"] == 8 and counted["ids_distinct"] == 4 + 2
    assert (counted["gone"], counted["late"], counted["open_requests"]) == (1, 0, 0)
    assert follower["seconds"] < 60

    assert all(step["worker"] in (0, 1) for step in follower["steps"])
    for step in follower["steps"]:
        assert step["rows"] == [[step["worker"]] * 4, [100] * 4]
    # A follower; the step that ran again, by itself; the leader, without what the dead owed.
    sums = sorted((step["sum"] for step in follower["steps"]), key=len)
    assert sums == [[[value] * 4 for value in values] for values in ([], [1, 1], [1, 2, 1, 0])]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_leader_that_is_killed_before_it_shared(report):
    """The follower is sent away, and both steps run again on the worker that is left."""
    leader = report["leader"]
    counted = leader["counted"]
    assert (counted["requests"], counted["rounds"], counted["merged"]) == (4, 3, 2)
    assert (counted["gone"], counted["late"], counted["open_requests"]) == (1, 0, 0)
    assert leader["seconds"] < 60
    for step in leader["steps"]:
        assert step["worker"] == 0 and step["leads"]
        assert step["rows"] == [[0] * 4, [100] * 4] and step["sum"] == [[1] * 4] * 2
