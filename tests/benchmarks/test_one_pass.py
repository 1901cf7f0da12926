import pytest

from tests.benchmarks.programs import run_quickly


@pytest.mark.slow
def test_shared_batches_lose_nothing_when_a_worker_is_killed(tmp_path):
    result, printed = run_quickly("one_pass", f"--cache={tmp_path}")
    batch_size = result["config"]["shape"]["batch_size"]
    (shared,) = result["results"]["shared batches: training worker"]
    assert (shared["end"], shared["lost"]) == ("returned", 0)
    # The step that was running when its worker was killed, if it had got so far.
    assert shared["twice"] in (0, batch_size)
    lossy = ("tf.data service, batches: tf.data worker", "dispenser on a server: training worker")
    for case in lossy:
        (found,) = result["results"][case]
        # What dies there loses records, unless it had nothing left to read: no promise of ours.
        assert found["end"] and found["lost"] >= 0
        assert result["lost"][case] == found["lost"]
    assert printed.count("training worker") >= 2
