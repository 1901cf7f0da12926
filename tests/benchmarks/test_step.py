import json
import os
import subprocess
import sys

import pytest

from benchmarks import network, step


def test_prediction_of_steps_on_limited_links():
    # 10 Gbit/s carry 1.25 GB a second.
    assert step.predict(2.0, 2.5e9, 10, num_workers=2) == step.Prediction(2.0, 3.0, 4.0)
    assert step.predict(2.0, 2.5e9, 1, num_workers=4) == step.Prediction(20.0, 20.5, 22.0)
    # What the wire takes is hidden behind the other workers' computing.
    assert step.predict(2.0, 1.25e8, 1, num_workers=2) == step.Prediction(2.0, 2.0, 3.0)


def test_ratios_are_of_samples_per_second():
    seconds = {"AMS": 2.0, "store-in-server": 8.0, "store-in-worker": 1.0}
    assert step.over(seconds) == {
        "ams_over_store_in_server": 4.0,
        "ams_over_store_in_worker": 0.5,
    }


@pytest.mark.slow
@pytest.mark.timeout(450)
def test_the_step_benchmark_runs():
    """Its numbers depend on the machine; what it says does not."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step", "--quick"],
        capture_output=True,
        text=True,
        timeout=420,
        env={name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout.splitlines()[-1])
    assert min(result["loopback"].values()) > 0
    if network.unavailable():
        assert "skipped, limited links: " in done.stdout
        return
    for links in ("10gbit", "1gbit"):
        assert set(result[links]) >= {
            "ams_over_store_in_server",
            "ams_over_store_in_worker",
            "predicted_ams_over_store_in_server",
            "predicted_ams_over_store_in_worker",
        }
    busiest = result["results"]["busiest_link_bytes_per_step"]
    # One worker's features of 2,192 distinct images, and what is not about images.
    assert busiest["store-in-server"] > 2192 * 1024 * 4
    assert busiest["AMS"] < busiest["store-in-worker"] < busiest["store-in-server"]
