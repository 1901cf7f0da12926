import pytest

from tests.benchmarks.programs import run_quickly


@pytest.mark.slow
def test_a_quick_run_measures_everything():
    report, printed = run_quickly("dynamic_embedding")
    assert report["benchmark"] == "dynamic_embedding"
    # Fewer than 5 would be a table that is walked through, as Keras' Adam does.
    assert report["update_over_keras_adam_1e6"] > 3
    assert report["lookup_over_keras"] > 0.3
    assert 25 < report["bytes_per_row_overhead"] < 40
    for table in report["results"]["tables"].values():
        assert {"lookup, dynamic", "update, Keras Adam", "step, dynamic"} <= set(table["timings"])
    cluster = report["results"]["clusters"]["1"]
    assert cluster["steps_per_s"] > 0 and sum(cluster["rows_by_server"]) == 20_000
    assert "bytes_per_row_resident" in printed
