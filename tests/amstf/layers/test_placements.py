"""The placements on a real cluster, in real processes: 2 workers, 2 servers."""

import json
import pathlib

import numpy as np
import pytest

from amstf.config import AmsConfig
from amstf.errors import ConfigError
from amstf.layers.placements import LocalPlacement, current_placement
from amstf.store import ImageStoreWriter, server_of
from amstf.strategy import ModelServers
from tests.cluster import run_on_cluster

CHIEF = pathlib.Path(__file__).with_name("placements_chief.py")
FEATURES = 37  # No other tensor of the model has this width.


@pytest.fixture(scope="module")
def ids():
    return np.arange(60) * 3 + 1


@pytest.fixture(scope="module")
def report(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("placements") / "images.h5"
    with ImageStoreWriter(path, FEATURES) as writer:
        writer.write(ids, np.random.default_rng(0).normal(size=(60, FEATURES)))
    chief = run_on_cluster(CHIEF, arguments=(str(path),), timeout=240)
    assert chief.returncode == 0, chief
    assert not chief.stderr.strip(), chief
    assert not chief.said, chief
    assert chief.stdout.count("\n") == 1, chief
    return json.loads(chief.stdout)


PLACEMENTS = {
    "servers": "ServersPlacement",
    "workers": "WorkersPlacement",
    "server 1": "ServersPlacement",
    "split": "ServersPlacement",
    "learn": "ServersPlacement",
    "workers, learn": "WorkersPlacement",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACEMENTS)
def test_the_placements_agree(report, name):
    """Predictions, loss and the gradient of each variable, over batches of 1, 7 and 64."""
    assert report[name]["placement"] == PLACEMENTS[name]
    assert report[name]["worst"] < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACEMENTS)
def test_the_servers_share_the_images_and_count(report, name, ids):
    share = np.bincount(server_of(ids, 2), minlength=2).tolist()
    assert report[name]["images"] == ([60] if name == "server 1" else share)
    counted = report[name]["counted"]
    assert all(server["lookups"] == 9 for server in counted), "one for each server, batch and run"
    assert sum(server["ids_looked_up"] for server in counted) == report["asked"]
    # 999983, which the store lacks, is in one of the three batches, which ran three times.
    assert sum(server["ids_missing"] for server in counted) == 3
    assert all(server["lookup_nanoseconds"] > 0 for server in counted)
    assert report[name]["layer"]["images"] == 60


@pytest.mark.slow
@pytest.mark.parametrize("name", ["servers", "server 1", "split", "learn"])
def test_raw_features_never_leave_the_servers(report, name):
    """Forward, backward and optimizer: nothing of width F off a server or between two of them."""
    graph = report[name]["graph"]
    assert graph["raw_elsewhere"] == []
    kinds = [line.split()[0] for line in graph["raw_on_servers"]]
    servers = 1 if name == "server 1" else 2
    assert kinds.count("AmsImageLookup") == servers
    assert kinds.count("MatMul") == 2 * servers, "forward, and backward for the weight"
    if name == "server 1":
        assert all("/task:1/" in line for line in graph["raw_on_servers"])


@pytest.mark.slow
def test_the_embedding_model_and_its_gradient_pass_no_worker(report):
    for name in ("servers", "server 1"):
        assert report[name]["graph"]["weight_elsewhere"] == []
    sums = report["servers"]["graph"]["sums"]
    assert sums and all(device.startswith("/job:ps/") for device in sums)


@pytest.mark.slow
def test_under_workers_they_do_so_the_checks_can_fail(report):
    graph = report["workers"]["graph"]
    assert any(line.startswith("MatMul gradient_tape") for line in graph["raw_elsewhere"])
    assert any("AmsImageLookup -> " in line for line in graph["raw_elsewhere"])
    assert any(line.startswith("MatMul") for line in graph["weight_elsewhere"])


def test_without_a_strategy_it_is_local():
    assert isinstance(current_placement(), LocalPlacement)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"placement": "server"}, "placement is 'server'; use 'servers' or 'workers'"),
        ({"image_servers": ()}, r"image_servers is \(\); name at least one"),
        ({"image_servers": (0, 0)}, r"image_servers is \(0, 0\); .* each once"),
        ({"image_servers": (-1, 0)}, r"by its index from 0"),
        ({"min_shard_bytes": -1}, "min_shard_bytes is -1; wanted a number of bytes, or 0"),
        ({"min_shard_bytes": 1e6}, "min_shard_bytes is 1000000.0; wanted a number of bytes"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        AmsConfig(**options)


def test_a_server_that_the_cluster_lacks_is_refused():
    message = r"names parameter server 2, but the cluster has 2 \(0 to 1\)"
    with pytest.raises(ConfigError, match=message):
        ModelServers(AmsConfig(image_servers=[0, 2]), num_servers=2)
    servers = ModelServers(AmsConfig(image_servers=[2, 0]), num_servers=3).group()
    assert len(servers) == 2
    assert servers.storage_device(0) == "/job:ps/replica:0/task:2/device:CPU:0"
