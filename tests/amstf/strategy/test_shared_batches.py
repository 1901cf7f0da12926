"""Each sample once in a pass, on a cluster, with 0, 1 and 2 of 3 workers killed in it."""

import collections
import json
import pathlib

import numpy as np
import pytest

from amstf import Samples, SampleWriter, SharedBatches
from tests.amstf.data.conftest import SCHEMA, make_sample
from tests.amstf.strategy.shared_batches_chief import BATCH, PASSES, make_model
from tests.cluster import run_on_cluster

CHIEF = pathlib.Path(__file__).with_name("shared_batches_chief.py")
COUNT = 331  # Not a multiple of the batch, of the files, or of anything.


def count(texts):
    return collections.Counter(int(user) for text in texts for user in text.split())


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1, 2])
def test_each_sample_is_trained_once_in_a_pass(tmp_path, killed):
    with SampleWriter(tmp_path, SCHEMA, "train", num_shards=3) as writer:
        for k in range(COUNT):
            writer.write(make_sample(k % 100, user=k))
    chief = run_on_cluster(
        CHIEF, workers=3, servers=2, timeout=280, arguments=(str(tmp_path), str(killed))
    )
    assert chief.returncode == 0, chief
    report = json.loads(chief.stdout)
    files = list((tmp_path / "trained").iterdir())
    several = report.pop("several", [])
    trained = count(path.read_text() for path in files) - count(several)
    assert set(trained) == set(range(COUNT))
    # A worker that is killed has one step; it counts twice if it had got so far.
    again = sum(trained.values()) - PASSES * COUNT
    assert min(trained.values()) >= PASSES
    assert 0 <= again <= killed * BATCH
    steps = PASSES * -(-COUNT // BATCH)
    assert report["position"] == steps
    assert steps <= report["steps"] <= steps + killed
    assert steps <= sum(report["worker_steps"]) <= steps + killed
    if not killed:
        workers = {path.name.split("-")[0] for path in files}
        assert workers == {"0", "1", "2"}
        assert count(several) == collections.Counter(range(COUNT))
    # Evaluation is exact: the same model in this process says the same.
    (tmp_path / "not used").mkdir()
    model = make_model(tmp_path / "not used")
    model.set_weights(
        [np.array(w, np.float32) for w in json.loads((tmp_path / "weights.json").read_text())]
    )
    ordered = SharedBatches(Samples.open(tmp_path), "train", 50, fields=["user"], shuffle=False)
    local = model.evaluate(ordered.local(), steps=ordered.steps_per_pass, verbose=0)
    np.testing.assert_allclose(report["evaluated"], local, rtol=1e-5)
    np.testing.assert_allclose(report["validated"], local, rtol=1e-5)
