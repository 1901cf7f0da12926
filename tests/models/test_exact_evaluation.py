"""`fit(validation_data=...)` and `evaluate` on a real cluster: exact, or refused beforehand."""

import json
import pathlib

import numpy as np
import pytest

from amstf import Samples, SampleWriter
from tests.amstf.data.conftest import SCHEMA, make_sample
from tests.cluster import run_on_cluster
from tests.models.exact_evaluation_chief import BATCH, make_model

CHIEF = pathlib.Path(__file__).with_name("exact_evaluation_chief.py")
COUNT = 331  # Not a multiple of the batch, of the files, or of the shards.


@pytest.mark.slow
def test_validation_on_a_cluster_is_exact_or_refused(tmp_path):
    with SampleWriter(tmp_path, SCHEMA, "train", num_shards=3) as writer:
        for k in range(COUNT):
            writer.write(make_sample(k % 100, user=k % 400))
    chief = run_on_cluster(CHIEF, workers=2, servers=2, timeout=200, arguments=(str(tmp_path),))
    assert chief.returncode == 0, str(chief)
    report = json.loads(chief.stdout)

    assert set(report["refused"]) == {
        "shuffled", "shuffled, in shards", "in order", "arrays", "split", "evaluate"
    }  # fmt: skip
    assert "validation_data is a dataset that shuffles" in report["refused"]["shuffled, in shards"]
    assert "each worker reads for itself" in report["refused"]["in order"]
    assert "pss_evaluation_shards='auto'" in report["refused"]["shuffled"]
    assert "of type EagerTensor" in report["refused"]["arrays"]
    assert report["refused"]["split"].startswith("validation_split is of type dict")
    assert report["refused"]["evaluate"].startswith("x is a dataset")
    assert report["steps_before"] == 0  # Nothing was trained for what cannot be evaluated.

    model = make_model(tmp_path)
    weights = json.loads((tmp_path / "weights.json").read_text())
    model.set_weights([np.array(w, np.float32) for w in weights])
    local = model.evaluate(Samples.open(tmp_path).dataset("train", BATCH), verbose=0)
    for way in ("shared", "shards", "evaluated"):
        np.testing.assert_allclose(report[way], local, rtol=1e-5, err_msg=way)
