import pytest

from tests.benchmarks.programs import run_quickly

READERS = ("dynamic", "service_files", "service_batches", "dispenser")


@pytest.mark.slow
def test_the_input_benchmark_runs(tmp_path):
    """Its numbers depend on the machine; what it says does not."""
    result, printed = run_quickly("input", f"--cache={tmp_path}")
    assert result["dynamic_over_plain_in_process"] > 0
    for reader in READERS:
        for key in ("", "_together"):
            assert result[f"{reader}_over_plain{key}"] > 0
    assert printed.count("shared batches") >= 3
    read = result["config"]["steps"] * result["config"]["shape"]["batch_size"]
    assert read == 64 * 256 and len(result["results"]) == 2 + 2 * (1 + len(READERS))
