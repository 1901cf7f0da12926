import pytest

from tests.benchmarks.programs import run_quickly


@pytest.mark.slow
def test_the_attention_benchmark_runs_and_its_two_ways_agree():
    result, printed = run_quickly("attention", timeout=200)
    assert "product" in printed
    assert result["times_faster_at_32"] > 0
    assert {result["results"][f"{way}, T=32"]["repeats"] for way in ("pairs", "product")} == {5}
