"""Models of field interactions through the programs: trained together, exported, asked."""

import numpy as np
import pytest
import tensorflow as tf

from amstf.data import Samples, parse_batch
from amstf.export import export
from amstf.schema import Field, Schema
from amstf.stock_ops import custom_ops
from launch.click_model import load_run
from launch.export_check import first_records
from launch.mutual_training import training_of
from launch.run_directory import MUTUAL, RunConfig, RunDirectory
from launch.scoring import load_scorer
from models.id_embedding import of_width
from tests.exports import write_dataset
from tests.helpers import CLICK_SCHEMA, random_batch, tensors

SCHEMA = of_width(Schema((*CLICK_SCHEMA.fields, Field("buy", "label"))), 3)
MEMBERS = {
    "deepfm": {},
    "dcn": {"interaction": ("layers=1",)},
    "dcn_v2": {"interaction": ("layers=1", "rank=3", "experts=2")},
    "pnn": {"interaction": ("products=both",)},
    "fibinet": {"interaction": ("bilinear=each",)},
    # One of them sees images.
    "pnn_2": {"images": "both", "aggregator": "attentive"},
}
ADS = 4


@pytest.mark.slow
def test_all_train_together_and_are_served_alone(tmp_path):
    for split, count in (("train", 320), ("validation", 64), ("test", 40)):
        write_dataset(tmp_path / "data", count, split, SCHEMA)
    samples = Samples.open(tmp_path / "data")
    common = {"hidden": (6,), "tower": (4, 3), "batch_size": 32, "epochs": 2, "labels": "all"}
    members = {
        name: RunConfig(str(samples.directory), name.removesuffix("_2"), **common, **changes)
        for name, changes in MEMBERS.items()
    }
    config = RunConfig(str(samples.directory), MUTUAL, members=members, **common)
    run = RunDirectory(tmp_path / "run")
    report = training_of(run, config).execute()
    assert report["steps"] == 20 and report["members"].keys() == MEMBERS.keys()

    examples = tf.constant(first_records(samples, "test", 40))
    batch = parse_batch(examples, SCHEMA.inputs)
    request, repeated = page_view()
    for name in (*MEMBERS, "whole"):
        model, _, own = load_run(run if name == "whole" else run.member(name))
        assert name == "whole" or own.interaction == MEMBERS[name].get("interaction", ())
        export(model, SCHEMA, tmp_path / name)
        assert custom_ops(tmp_path / name) == []
        score, columns = load_scorer(tmp_path / name)
        assert columns == ["click_probability", "buy_probability"]
        want = model(batch, training=False)
        got = np.split(score(examples), 2, axis=1)
        for values, label in zip(got, ("click", "buy"), strict=True):
            np.testing.assert_allclose(values, want[label], atol=1e-5, err_msg=name)
        if name == "whole":
            continue
        served = tf.saved_model.load(str(tmp_path / name)).signatures["score_ads"](**request)
        for label, values in model(repeated, training=False).items():
            assert values.shape == (ADS, 1) and np.std(values) > 1e-6
            np.testing.assert_allclose(served[f"{label}_probability"], values, atol=1e-5)


def page_view():
    """Returns a request of one user and `ADS` ads by names of an export, and its samples."""
    user, ads = (tensors(random_batch(SCHEMA, size, 3, seed=2)) for size in (1, ADS))
    sides = {name: f.side for f in SCHEMA.inputs for name in (f.name, f.weight_name)}
    request = {key: (ads if sides[key] == "ad" else user)[key] for key in user}
    repeated = {
        key: value if sides[key] == "ad" else tf.repeat(value, ADS, axis=0)
        for key, value in request.items()
    }
    return {key.replace(".", "_"): value for key, value in request.items()}, repeated
