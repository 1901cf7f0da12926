from tests.benchmarks.programs import run_quickly


def test_all_ways_are_measured():
    result, printed = run_quickly("extract")
    ways = result["results"]["mobilenet"]
    assert set(ways) == {"backbone", "extract", "decode"}
    assert all(way["images_per_s"] > 0 for way in ways.values())
    wanted = ways["backbone"]["median_s"] / ways["extract"]["median_s"]
    assert abs(result["extract_over_backbone_mobilenet"] - wanted) < 1e-3
    assert "of the backbone's speed" in printed
