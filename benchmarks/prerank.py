"""One user against many ads: the towers' one matrix product, and the model on every pair.

    python -m benchmarks.prerank [--quick] [--keep]

`models.TwoTower` with 14 user and 8 ad fields, image and behaviour images, towers 128-64. Compared,
for one user and N ads:

  pairs           the whole model on N samples that repeat the user
  user and ads    the user's tower, then `score_ads` on ad embeddings made beforehand
  ads             `score_ads` alone

All give the same probabilities, which is checked.
"""

from __future__ import annotations

import dataclasses
import pathlib
import tempfile
from typing import Any

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

from amstf.schema import Field, Schema
from amstf.store import ImageStore, ImageStoreWriter
from benchmarks import harness
from launch import program
from models import TwoTower, build


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        ads: Ads to score (N).
        behaviours: Behaviour images of the user (T).
        images: Images in the store.
        image_width: Features of an image (F).
        repeats: Rounds of timing.
        seconds: Time for all of them, at most.
    """

    ads: int = 10_000
    behaviours: int = 32
    images: int = 10_000
    image_width: int = 4096
    repeats: int = 30
    seconds: float = 60.0


QUICK = Config(ads=500, images=500, image_width=64, repeats=5, seconds=5.0)
_VOCABULARY = 10_000


def make_schema() -> Schema:
    """Returns 14 fields of the user, 8 of the ad, and the images of both."""
    return Schema((
        *(Field(f"user_{k}", "sparse", side="user", vocabulary_size=_VOCABULARY)
          for k in range(14)),
        *(Field(f"ad_{k}", "sparse", side="ad", vocabulary_size=_VOCABULARY) for k in range(8)),
        Field("behaviour_images", "image", side="user", is_list=True),
        Field("ad_image", "image", side="ad"),
        Field("click", "label"),
    ))  # fmt: skip


def make_batches(config: Config, schema: Schema) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of one user and those of N ads."""
    rng = np.random.default_rng(0)
    user: dict[str, Any] = {}
    ads: dict[str, Any] = {}
    for field in schema.inputs:
        highest = config.images if field.kind == "image" else _VOCABULARY
        shape = (1, config.behaviours) if field.is_list else (1,)
        if field.side == "user":
            user[field.name] = tf.constant(rng.integers(highest, size=shape))
        else:
            ads[field.name] = tf.constant(rng.integers(highest, size=config.ads))
    return user, ads


def main(arguments: list[str]) -> None:
    """Runs the benchmark."""
    del arguments
    config = QUICK if harness.FLAGS.quick else Config()
    report = harness.Report("prerank", config)
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "images.h5")
        with ImageStoreWriter(path, config.image_width, "float16") as writer:
            rng = np.random.default_rng(0)
            writer.write(
                np.arange(config.images),
                rng.normal(size=(config.images, config.image_width)).astype(np.float32),
            )
        schema = make_schema()
        model = build(TwoTower(schema, ImageStore.open(path)), schema)
        _measure(config, model, schema, report)
    report.finish()


def _measure(config: Config, model: TwoTower, schema: Schema, report: harness.Report) -> None:
    user, ads = make_batches(config, schema)
    pairs = {**{name: tf.repeat(ids, config.ads, axis=0) for name, ids in user.items()}, **ads}
    whole, tower, score = map(tf.function, (model, model.user_embedding, model.score_ads))
    embedded, embedded_user = model.ad_embedding(ads), model.user_embedding(user)
    ways = {
        "pairs": lambda: whole(pairs).numpy(),
        "user and ads": lambda: score(tower(user), embedded).numpy(),
        "ads": lambda: score(embedded_user, embedded).numpy(),
    }
    want = ways["pairs"]().ravel()
    for name, way in ways.items():
        np.testing.assert_allclose(way().ravel(), want, atol=1e-6, err_msg=name)
    timings = harness.measure_together(ways, repeats=config.repeats, seconds=config.seconds)
    rows = []
    for name, timing in timings.items():
        report.results[name] = timing.as_json()
        rows.append([name, timing.median * 1e3, timing.spread[0] * 1e3, timing.spread[1] * 1e3])
    print(harness.table(["way", "median ms", "min", "max"], rows))
    report.ratios["times_faster_than_pairs"] = (
        timings["pairs"].median / timings["user and ads"].median
    )
    report.ratios["ads_a_second"] = config.ads / timings["user and ads"].median


if __name__ == "__main__":
    program.run(main)
