"""The models on parameter servers, in real processes."""

import json
import sys

import numpy as np
import pytest
import tensorflow as tf

from amstf.store import ImageStoreWriter
from launch.local_cluster import LocalCluster
from tests.models.cluster_chief import MODELS, make, train


@pytest.mark.slow
def test_models_train_on_servers_as_they_do_alone(tmp_path):
    store = str(tmp_path / "images.h5")
    with ImageStoreWriter(store, width=5) as writer:
        writer.write(np.arange(30), np.random.default_rng(7).normal(size=(30, 5)))
    before, alone = {}, {}
    for name in MODELS:
        local = make(name, store)
        tf.train.Checkpoint(model=local).save(str(tmp_path / f"{name}-start"))
        before[name] = local.get_weights()
        train(local)
        alone[name] = local

    # One worker: its steps come one after another, so that the weights must be the same.
    with (
        LocalCluster(1, 2, tmp_path / "logs", intra_op_threads=1) as cluster,
        open(tmp_path / "chief.out", "w+") as out,
        open(tmp_path / "chief.err", "w+") as err,
    ):
        command = [sys.executable, "-m", "tests.models.cluster_chief", store, str(tmp_path)]
        code = cluster.run_chief(command, stdout=out, stderr=err, timeout=280)
    errors = (tmp_path / "chief.err").read_text()
    assert code == 0, errors[-4000:]
    assert "IndexedSlices" not in errors, "the gradient of a table has become dense"
    report = json.loads((tmp_path / "chief.out").read_text())
    assert set(report) == set(MODELS)
    # The tables of users and items are split over the servers, the one of 7 buckets is too small.
    assert report["mlp"]["shards"] == [2, 2, 1]
    # Users and items have one table of rows of 3 + 2 floats; lists and hashed words their own.
    assert report["deepfm"]["shards"] == [2, 2, 2]
    # Dice's averages of the 36 units of the attention are split too, those of 8 units are not.
    parts = [name for name in report["din"]["averages"] if "part_" in name]
    assert len(parts) == 4 and len(report["din"]["averages"]) == 6

    for name, told in report.items():
        assert len(told["devices"]) == 2 and all("/job:ps" in device for device in told["devices"])
        remote = make(name, store, told["trained"])
        pairs = zip(
            alone[name].weights,
            before[name],
            alone[name].get_weights(),
            remote.get_weights(),
            strict=True,
        )
        for weight, first, here, on_servers in pairs:
            is_trained = bool(np.abs(here - first).max() > 1e-5)
            assert is_trained is ("occurrences" not in weight.name), f"{name}: {weight.name}"
            np.testing.assert_allclose(
                on_servers, here, atol=1e-5, err_msg=f"{name}: {weight.name}"
            )
