"""The models on parameter servers, in real processes."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from amstf.store import ImageStoreWriter
from launch.local_cluster import LocalCluster
from tests.models.cluster_chief import make, train


@pytest.mark.slow
def test_dicm_trains_on_servers_as_it_does_alone(tmp_path):
    store = str(tmp_path / "images.h5")
    with ImageStoreWriter(store, width=5) as writer:
        writer.write(np.arange(30), np.random.default_rng(7).normal(size=(30, 5)))
    local = make(store)
    start = tf.train.Checkpoint(model=local).save(str(tmp_path / "start"))
    before = local.get_weights()
    train(local)

    # One worker: its steps come one after another, so that the weights must be the same.
    with (
        LocalCluster(1, 2, tmp_path / "logs", intra_op_threads=1) as cluster,
        open(tmp_path / "chief.out", "w+") as out,
        open(tmp_path / "chief.err", "w+") as err,
    ):
        command = [sys.executable, "-m", "tests.models.cluster_chief", store, start, str(tmp_path)]
        code = cluster.run_chief(command, stdout=out, stderr=err, timeout=240)
    errors = (tmp_path / "chief.err").read_text()
    assert code == 0, errors[-4000:]
    report = json.loads((tmp_path / "chief.out").read_text())
    # The tables of users and items are split over the servers, the one of 7 buckets is too small.
    assert report["shards"] == [2, 2, 1]
    assert len(report["devices"]) == 2 and all("/job:ps" in name for name in report["devices"])
    assert "IndexedSlices" not in errors, "the gradient of a table has become dense"

    remote = make(store, report["trained"])
    names = [weight.name for weight in local.weights]
    weights = zip(names, before, local.get_weights(), remote.get_weights(), strict=True)
    for name, first, alone, on_servers in weights:
        assert np.abs(alone - first).max() > 1e-4, f"{name} was not trained"
        np.testing.assert_allclose(on_servers, alone, atol=1e-5, err_msg=name)
