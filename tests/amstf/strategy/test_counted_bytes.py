"""The servers' counters of bytes, against what the loopback device moved."""

import json
import pathlib

import pytest

from benchmarks import network
from tests.amstf.strategy.bytes_chief import FEW, MANY, STEPS
from tests.cluster import run_on_cluster

CHIEF = pathlib.Path(__file__).with_name("bytes_chief.py")


@pytest.mark.slow
@pytest.mark.parametrize("wire_dtype, bytes_an_image", [("float32", 104), ("bfloat16", 56)])
def test_what_is_counted_is_what_the_loopback_device_moves(tmp_path, wire_dtype, bytes_an_image):
    with network.own_loopback() as is_own:
        if not is_own:
            pytest.skip("no network namespace may be made here: others' bytes would be counted too")
        chief = run_on_cluster(CHIEF, timeout=120, arguments=(str(tmp_path), wire_dtype))
    assert chief.returncode == 0, chief
    report = json.loads(chief.stdout)
    many, few = report["many"], report["few"]
    assert many["ids_asked"] == STEPS * MANY and few["ids_asked"] == STEPS * FEW
    images = STEPS * (MANY - FEW)
    counted = sum(many[name] - few[name] for name in ("bytes_in", "bytes_out"))
    assert counted == images * bytes_an_image
    # What both do, all but the images, cancels out; message headers do not.
    assert 1.0 < (many["moved"] - few["moved"]) / counted < 1.06
