import json
import os
import subprocess
import sys

import pytest

from amstf.config import AmsConfig
from benchmarks import network, traffic
from benchmarks.traffic import Bytes


def run_of(worker_server, server_server=0.0, rest=1.0):
    return Bytes(worker_server + server_server + rest, worker_server, server_server, 1.0)


def test_traffic_is_taken_apart_by_difference():
    parts = traffic.take_apart(
        {
            "no images": [run_of(100.0)],
            "store-in-worker": [run_of(180.0)],
            "store-in-server": [run_of(1180.0)],
            "AMS": [run_of(130.0, 60.0), run_of(110.0, 20.0), run_of(120.0, 40.0)],
        }
    )
    assert {name: part["images"] for name, part in parts.items()} == {
        "no images": 0.0,
        "store-in-worker": 0.0,
        "store-in-server": 1000.0,
        "AMS": 20.0,
    }
    assert parts["store-in-server"]["tower"] == parts["store-in-worker"]["tower"] == 80.0
    ams = parts["AMS"]
    assert (ams["tower"], ams["other"], ams["server_server"], ams["rest"]) == (0, 100, 40, 1)
    assert (ams["total_min"], ams["total"], ams["total_max"]) == (131.0, 161.0, 191.0)


def test_storage_counts_the_share_of_the_store():
    config = traffic.Config(ams=AmsConfig(), samples_per_image=10.0)
    stored = {"sample": 200.0, "sample_with_images": 200.0 + 33 * 8000.0, "image": 8000.0}
    on_disk = traffic.storage(config, stored, distinct=2 * config.shape.batch_size)
    assert on_disk == {
        "store-in-worker": 264_200.0,
        "store-in-worker, once a step": 16_200.0,
        "AMS": 1000.0,
    }


def test_a_run_ends_with_an_exchange_of_e_for_any_period():
    config = traffic.Config(ams=AmsConfig(merge="async", sync_every=5))
    assert config.steps % config.ams.sync_every == 0
    names = [way.name for way in config.ways]
    assert names[:3] == ["no images", "store-in-worker", "store-in-server"]
    assert config.ways[names.index("AMS, bfloat16")].ams.wire_dtype == "bfloat16"


@pytest.mark.slow
@pytest.mark.timeout(450)
def test_the_traffic_benchmark_runs():
    """Bytes do not depend on how busy the machine is: they are the claim."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.traffic", "--quick"],
        capture_output=True,
        text=True,
        timeout=420,
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout.splitlines()[-1])
    assert 104 <= result["worker_image_bytes_per_distinct_image"]["float32"] <= 110
    assert 56 <= result["worker_image_bytes_per_distinct_image"]["bfloat16"] <= 65
    assert result["storage_ratio_to_store_in_worker"] >= 31
    parts = result["results"]["bytes_per_step"]
    features = parts["store-in-server"]["images"] / result["distinct_images_per_step"]
    assert 8 + 1024 * 4 < features < 1.02 * (8 + 1024 * 4)
    weights = 4 * 279_960
    assert 2 * weights < parts["store-in-worker"]["tower"] < 2.02 * weights
    if network.unavailable() is None:
        for part in parts.values():
            assert part["accounted"] == pytest.approx(1, abs=0.01)
