"""The benchmarks of models run; each checks by itself that what it compares agrees."""

import pytest

from tests.benchmarks.programs import run_quickly


@pytest.mark.slow
def test_attention():
    result, printed = run_quickly("attention", timeout=200)
    assert "product" in printed
    assert result["times_faster_at_32"] > 0
    assert {result["results"][f"{way}, T=32"]["repeats"] for way in ("pairs", "product")} == {5}


@pytest.mark.slow
def test_prerank():
    result, printed = run_quickly("prerank", timeout=200)
    assert "user and ads" in printed
    assert result["times_faster_than_pairs"] > 0 and result["ads_a_second"] > 0


@pytest.mark.slow
def test_common_features():
    result, printed = run_quickly("common_features", timeout=200)
    assert "bytes a sample" in printed
    # 33 images of an impression, of which those of the user, 32, are asked once for eight.
    assert result["times_fewer_images_asked"] == pytest.approx(33 / 5)
    assert result["times_fewer_bytes"] > 2 and result["times_faster_training_sum"] > 0
    assert result["results"]["greatest_difference"] < 1e-5


@pytest.mark.slow
def test_mutual():
    result, printed = run_quickly("mutual", timeout=200)
    assert "dicm_3" in printed
    # Four processes have TensorFlow four times.
    assert 0 < result["memory_ratio"] < 1
    assert result["time_ratio_joint_over_separate"] > 0
    assert set(result["results"]) == {"joint", *(k for k in result["results"] if k[-1].isdigit())}
