"""Models of field interactions as runs have them: trained together, exported, asked."""

import numpy as np
import pytest
import tensorflow as tf

from amstf.data import parse_batch
from amstf.export import export
from amstf.optimizers import Adam
from amstf.schema import Field, Schema
from amstf.stock_ops import custom_ops
from launch.click_model import make_model, open_stores
from launch.export_check import first_records
from launch.run_directory import MUTUAL, RunConfig
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
    samples = write_dataset(tmp_path / "data", 40, schema=SCHEMA)
    members = {
        name: RunConfig(
            str(samples.directory),
            name.removesuffix("_2"),
            hidden=(6,),
            tower=(4, 3),
            labels="all",
            **changes,
        )
        for name, changes in MEMBERS.items()
    }
    config = RunConfig(str(samples.directory), MUTUAL, members=members, labels="all")
    whole = make_model(config, SCHEMA, open_stores(samples))
    examples = tf.constant(first_records(samples, "test", 40))
    batch = parse_batch(examples, SCHEMA.inputs)
    clicks = {label: tf.cast(batch["user"] % 2, tf.float32)[:, None] for label in ("click", "buy")}
    whole.compile(Adam(0.01))
    data = tf.data.Dataset.from_tensors((batch, clicks)).repeat(10)
    history = whole.fit(data, epochs=2, verbose=0).history

    request, repeated = page_view()
    for name, model in whole.members.items():
        first, last = history[f"{name}_loss"]
        assert last < first, name
        export(model, SCHEMA, tmp_path / name, signatures=["serving_default", "score_ads"])
        assert custom_ops(tmp_path / name) == []
        score, columns = load_scorer(tmp_path / name)
        assert columns == ["click_probability", "buy_probability"]
        want = model(batch, training=False)
        got = np.split(score(examples), 2, axis=1)
        for values, label in zip(got, ("click", "buy"), strict=True):
            np.testing.assert_allclose(values, want[label], atol=1e-5, err_msg=name)
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
