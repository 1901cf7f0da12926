import pytest

from tests.benchmarks.programs import run_quickly


@pytest.mark.slow
def test_the_benchmark_of_serving_runs():
    """Its numbers depend on the machine; what it says does not. It checks predictions itself."""
    result, printed = run_quickly("serving", "--base=din", "--aggregator=attentive")
    cases = ("ids", "table", "table float16", "per request")
    wanted = {f"{case}, {n} behaviours" for case in cases for n in (32, 200)}
    assert result["p95_ms"].keys() == result["results"].keys() == wanted
    for n in ("32", "200"):
        p95 = {case: result["p95_ms"][f"{case}, {n} behaviours"] for case in cases}
        assert result["p95_ratio_table"][n] == pytest.approx(p95["table"] / p95["ids"])
        assert result["p95_ratio_per_request"][n] == pytest.approx(p95["per request"] / p95["ids"])
    for measured in result["results"].values():
        assert measured["p50_ms"] <= measured["p95_ms"] <= measured["p99_ms"]
        assert measured["requests_per_second"] > 0
    assert printed.startswith("behaviours case")
