"""Impressions of one user stored in groups, against one record each: bytes, parsing, training.

    python -m benchmarks.common_features [--quick] [--keep]

The same impressions are written twice ("common features", arXiv 1711.06505, section 4): pages of
--page_size impressions, all of a page with one user and his behaviours.

  ungrouped   a record for each impression, with the user's part in each
  grouped     a record for each page, with the user's part once

Compared are bytes on disk; parsing of serialized batches; reading a pass; and steps of training of
DICM, with sum pooling, which is computed once for a page, and with attention, which is not. That
both ways predict the same is checked. An image "asked" is an id that the model looks up, a
"distinct" one is embedded: E runs on the distinct images of a step.
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

from absl import flags

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf

import models
from amstf import ImageStore, Samples, SharedBatches
from amstf.data import SampleWriter
from amstf.optimizers import Adam
from benchmarks import click_shape, harness
from benchmarks.click_shape import ClickShape
from launch import program

_PAGE_SIZE = flags.DEFINE_integer("page_size", 8, "Impressions of a page.", lower_bound=1)
WAYS = ("ungrouped", "grouped")
AGGREGATORS = ("sum", "attentive")
_TOLERANCE = 1e-5  # E sees other rows together, so the order of its float32 sums differs.


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        shape: Sizes of model and data.
        page_size: Impressions of a page.
        steps: Batches that a round of parsing or training takes.
        repeats: Rounds of timing, at most.
        seconds: Time for each comparison, at most.
    """

    # A pass so long that starting a pipeline, which is slower for groups, does not decide.
    shape: ClickShape = dataclasses.field(default_factory=lambda: ClickShape(samples=131_072))
    page_size: int = 8
    steps: int = 4
    repeats: int = 10
    seconds: float = 60.0


QUICK = Config(ClickShape().quick(), steps=2, repeats=3, seconds=5.0)


def write(config: Config, directory: pathlib.Path) -> None:
    """Writes the same impressions to a split for each way."""
    shape = config.shape
    rng = np.random.default_rng([shape.seed, 3])
    pages = -(-shape.samples // config.page_size)
    users = rng.integers(shape.users, size=pages)
    behaviours = click_shape.popular_images(shape, rng, pages * shape.behaviours)
    behaviours = behaviours.reshape(pages, shape.behaviours)
    ads = click_shape.popular_images(shape, rng, shape.samples)
    prices, clicks = rng.random(shape.samples), rng.random(shape.samples) < 0.3
    for way, group_size in zip(WAYS, (None, config.page_size), strict=True):
        with SampleWriter(directory, shape.schema, way, shape.files, group_size) as writer:
            for k, ad in enumerate(ads):
                page = k // config.page_size
                writer.write(
                    {
                        "user": users[page],
                        "behaviour_images": behaviours[page],
                        "ad_image": ad,
                        "category": ad % shape.categories,
                        "price": prices[k],
                        "click": float(clicks[k]),
                    }
                )


def parsing(samples: Samples, way: str, config: Config) -> Callable[[], int]:
    """Returns what parses some batches, which it holds in memory, and counts the impressions."""
    size = samples.records_of(way, config.shape.batch_size)
    records = tf.data.TFRecordDataset(samples.files(way)).batch(size).take(config.steps)
    batches = list(records)
    fields = (*samples.schema.inputs, *samples.schema.labels)

    @tf.function(reduce_retracing=True)
    def parse(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
        return samples.parse(way, serialized, fields)

    return lambda: sum(len(parse(batch)["click"]) for batch in batches)


def reading(samples: Samples, way: str, config: Config) -> Callable[[], int]:
    """Returns what reads a pass and counts the impressions."""
    data = samples.dataset(way, config.shape.batch_size, shuffle=True)
    return lambda: sum(len(clicks) for _, clicks in data)


def training(
    batches: list[Any], store: ImageStore, aggregator: str, config: Config
) -> Callable[[], float]:
    """Returns what trains a model of its own on some batches."""
    shape = config.shape
    model = models.Dicm(
        shape.schema, store, models.image_tower(shape.tower), aggregator, hidden=shape.hidden
    )
    models.build(model, shape.schema)
    model.compile(Adam(0.001), "binary_crossentropy")
    step = tf.function(model.train_step, reduce_retracing=True)

    def train() -> float:
        for batch in batches:
            loss = step(batch)["loss"]
        return float(loss)

    return train


def images_of(batches: list[Any]) -> dict[str, float]:
    """Counts, for each impression of some batches, the images asked and the distinct ones."""
    impressions = asked = distinct = 0
    for inputs, clicks in batches:
        ids = np.concatenate(
            [inputs[name].numpy().ravel() for name in ("behaviour_images", "ad_image")]
        )
        impressions += len(clicks)
        asked += ids.size
        distinct += np.unique(ids).size
    return {"asked": asked / impressions, "distinct": distinct / impressions}


def check_predictions(samples: Samples, store: ImageStore, config: Config) -> float:
    """Returns the greatest difference of predictions; raises AssertionError if it is too great."""
    greatest = 0.0
    shape = config.shape
    for aggregator in AGGREGATORS:
        model = models.Dicm(
            shape.schema, store, models.image_tower(shape.tower), aggregator, hidden=shape.hidden
        )
        one, other = (
            np.concatenate([model(x) for x, _ in samples.dataset(way, shape.batch_size).take(2)])
            for way in WAYS
        )
        count = min(len(one), len(other))
        greatest = max(greatest, float(np.abs(one[:count] - other[:count]).max()))
    assert greatest <= _TOLERANCE, f"predictions differ by {greatest:.1e}"
    return greatest


def main(arguments: list[str]) -> None:
    """Runs the benchmark."""
    del arguments
    config = QUICK if harness.FLAGS.quick else Config()
    config = dataclasses.replace(config, page_size=_PAGE_SIZE.value)
    report = harness.Report("common_features", config)
    store = click_shape.prepare(config.shape).store
    rows: list[list[Any]] = []

    def compare(what: str, actions: dict[str, Callable[[], Any]], counts: dict[str, int]) -> None:
        timings = harness.measure_together(
            actions, repeats=config.repeats, warm_up=2, seconds=config.seconds
        )
        rates = {way: counts[way] / timings[way].median for way in WAYS}
        for way in WAYS:
            each = {**timings[way].as_json(), "samples_per_second": rates[way]}
            report.results[f"{what}, {way}"] = each
        report.ratios[f"times_faster_{what.replace(' ', '_')}"] = rates["grouped"] / rates[WAYS[0]]
        add_row(f"{what}, samples/s", rates)

    def add_row(what: str, values: dict[str, float]) -> None:
        first, other = (float(values[way]) for way in WAYS)
        rows.append([what, first, other, other / first])

    with tempfile.TemporaryDirectory(prefix="amstf-common-") as directory:
        write(config, pathlib.Path(directory))
        samples = Samples.open(directory)
        report.results["greatest_difference"] = check_predictions(samples, store, config)
        stored = {
            way: sum(file.bytes for file in samples.manifest.files(way)) / config.shape.samples
            for way in WAYS
        }
        add_row("bytes a sample", stored)
        report.results["bytes_a_sample"] = stored
        report.ratios["times_fewer_bytes"] = stored["ungrouped"] / stored["grouped"]

        parse = {way: parsing(samples, way, config) for way in WAYS}
        compare("parsing", parse, {way: action() for way, action in parse.items()})
        read = {way: reading(samples, way, config) for way in WAYS}
        compare("reading", read, dict.fromkeys(WAYS, config.shape.samples))

        batches = {}
        for way in WAYS:
            shared = SharedBatches(samples, way, config.shape.batch_size)
            batches[way] = list(itertools.islice(shared.local(), config.steps))
        counts = {way: sum(len(clicks) for _, clicks in batches[way]) for way in WAYS}
        images = {way: images_of(batches[way]) for way in WAYS}
        report.results["images_a_sample"] = images
        for kind in ("asked", "distinct"):
            values = {way: images[way][kind] for way in WAYS}
            add_row(f"images {kind} a sample", values)
            report.ratios[f"times_fewer_images_{kind}"] = values["ungrouped"] / values["grouped"]
        for aggregator in AGGREGATORS:
            train = {way: training(batches[way], store, aggregator, config) for way in WAYS}
            compare(f"training {aggregator}", train, counts)
    print(harness.table(["", *WAYS, "grouped / ungrouped"], rows))
    report.finish()


if __name__ == "__main__":
    program.run(main)
