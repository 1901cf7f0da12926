"""Algorithm 1, proven: after 20 synchronous rounds a cluster has the weights of one process."""

import json
import pathlib

import pytest

from tests.cluster import run_on_cluster

CHIEF = pathlib.Path(__file__).with_name("rounds_chief.py")
ROUNDS = 20


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_weights_equal_those_of_one_process_on_the_union_batches(tmp_path, workers, servers):
    all_cases = (workers, servers) == (2, 2)
    chief = run_on_cluster(
        CHIEF,
        workers=workers,
        servers=servers,
        timeout=500,
        arguments=(str(tmp_path), str(workers), "all cases" if all_cases else "some"),
    )
    assert chief.returncode == 0, chief
    assert not chief.said, chief
    report = json.loads(chief.stdout)
    assert {"SGD", "Adagrad", "Adam", "SGD, every 3"} <= set(report)
    assert ({"Keras Adam", "Adam, tables split"} <= set(report)) == all_cases
    for name, found in report.items():
        assert max(found["differences"].values()) < 1e-5, (name, found["differences"])
        assert found["moved"] > 1e-3, f"{name}: each weight must have been trained"
        assert found["steps"] == ROUNDS
        assert found["shards"] == (2 if "split" in name else 0)
        if workers == 1:
            assert found["evaluated"] == pytest.approx(found["evaluated_in_process"], rel=1e-5)
        rounds = found["rounds"]
        assert rounds["rounds"] == ROUNDS and rounds["entered"] == ROUNDS * workers
        assert rounds["shrunk"] == 0
        for server in found["servers"]:
            assert server["open_requests"] == 0
            # The evaluation of 20 batches is in no round: each request by itself.
            assert server["rounds"] == 2 * ROUNDS
            assert server["requests"] == ROUNDS * workers + ROUNDS
