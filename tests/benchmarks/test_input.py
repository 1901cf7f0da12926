import pytest

from tests.benchmarks.programs import run_quickly


@pytest.mark.slow
def test_the_input_benchmark_runs(tmp_path):
    """Its numbers depend on the machine; what it says does not."""
    result, printed = run_quickly("input", f"--cache={tmp_path}")
    for key in ("", "_in_process", "_together"):
        assert result[f"dynamic_over_plain{key}"] > 0
    assert printed.count("shared batches") >= 3
    read = result["config"]["steps"] * result["config"]["shape"]["batch_size"]
    assert read == 64 * 256 and len(result["results"]) == 6
