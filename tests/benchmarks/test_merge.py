import dataclasses

import numpy as np
import pytest

from benchmarks import click_shape, merge
from benchmarks.click_run import Costs
from benchmarks.click_shape import ClickShape
from tests.benchmarks.programs import run_quickly

SHAPE = ClickShape(
    image_width=4, batch_size=8, images=64, samples=64, files=4, behaviours=3, users=10
)


def test_distinct_images_of_workers_together(tmp_path):
    data = click_shape.prepare(SHAPE, tmp_path)
    images = {}
    for worker in range(2):
        batches = data.batches(2, worker=worker).take(3).as_numpy_iterator()
        images[worker] = [
            set(inputs["ad_image"].reshape(-1)) | set(inputs["behaviour_images"].reshape(-1))
            for inputs, _ in batches
        ]
    wanted = np.mean([len(a | b) for a, b in zip(images[0], images[1], strict=True)])
    assert merge.distinct_together(data, 2, 3) == pytest.approx(wanted)
    assert merge.distinct_together(data, 1, 3) == pytest.approx(data.distinct_images(1, 3))
    # They overlap, so that there is something to merge.
    assert wanted < np.mean([len(a) + len(b) for a, b in zip(images[0], images[1], strict=True)])


def costs(**counters):
    return Costs(
        steps=10,
        seconds=2.0,
        counters=counters,
        processor_s={"ps": 1.0, "worker": 0.5, "chief": 0.1},
        loopback_bytes=0,
    )


def test_the_ratio_is_one_where_each_image_is_embedded_once():
    # 2 workers, 5 steps each; 30 distinct images for one step of both.
    perfect = costs(ids_looked_up=150, ids_distinct=150, requests=40, wait_nanoseconds=80_000_000)
    found = merge.summary([perfect], SHAPE, workers=2, distinct=30.0)
    assert found["distinct_over_embedded"] == 1.0
    assert found["samples_a_second"] == 40.0
    assert (found["server_ms"], found["worker_ms"], found["wait_ms"]) == (100.0, 50.0, 2.0)


def test_without_meetings_what_was_looked_up_was_embedded():
    found = merge.summary([costs(ids_looked_up=300)], SHAPE, workers=2, distinct=30.0)
    assert found["distinct_over_embedded"] == 0.5 and found["wait_ms"] == 0.0


def test_none_is_the_first_policy():
    policies = dataclasses.replace(merge.Config(), waits_ms=(2.5,)).policies()
    assert list(policies) == ["none", "async 2.5 ms", "sync"]
    assert policies["async 2.5 ms"] == {"merge": "async", "merge_wait_ms": 2.5}


@pytest.mark.slow
def test_the_merge_benchmark_runs(tmp_path):
    """How much is merged depends on the machine; that more than all cannot be merged does not."""
    result, _ = run_quickly("merge", f"--cache={tmp_path}")
    ratios = result["distinct_over_embedded"]
    assert list(ratios) == ["none", "async 10 ms", "sync"]
    assert 0.4 < ratios["none"]["2"] < 0.99
    for policy in ratios:
        assert ratios["none"]["2"] - 0.05 < ratios[policy]["2"] < 1.05
        assert result["results"][policy]["2"]["server_ms"] > 0
