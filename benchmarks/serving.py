"""One page view, served: one user and 400 ads, by ids only and with images.

    python -m benchmarks.serving [--quick] [--keep]

Asks signature `score_ads` of exports, loaded as a server loads them: one request after the other
for latencies, from several clients at a time for the throughput.
The user has 32 or 200 behaviours. Cases, each with its own baseline of ids only beside it:

  ids                  the base network: ids of the behaviours too, no images
  table                DICM, embeddings looked up in the table inside the model
  table float16        the same table in half the bytes
  per request          DICM, raw features looked up and embedded by E in every request

arXiv 1711.06505, section 7, gives 21 ms without images and 24 ms (+14 %) with them, embeddings in a
table. Here `p95_ratio_table` is the p95 of `table` over that of `ids`, of `base` and `aggregator`.
What all cases compute is compared with the model first. No network is in these numbers.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import flags

from amstf.export import export
from amstf.schema import Field, Schema
from amstf.store import ImageStore, ImageStoreWriter
from benchmarks import harness
from launch import program
from models import BASE_NETWORKS, Dicm, build

FLAGS = flags.FLAGS
flags.DEFINE_enum("base", "mlp", sorted(BASE_NETWORKS), "Network of ids that images are added to.")
flags.DEFINE_string("aggregator", "sum", "How DICM makes one vector of the behaviours' images.")
flags.DEFINE_integer("requests", None, "Requests of each case that are timed.", lower_bound=20)


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        base: Network of ids.
        aggregator: Of the behaviours' images.
        ads: Ads of a page view.
        behaviours: Behaviours of a user, one case each.
        images: Images in the store.
        image_width: Features of an image (F).
        requests: Requests of each case that are timed, in turn with those of the other cases.
        warm_up: Requests before.
        clients: Clients that ask at a time, for the throughput.
    """

    base: str = "mlp"
    aggregator: str = "sum"
    ads: int = 400
    behaviours: tuple[int, ...] = (32, 200)
    images: int = 50_000
    image_width: int = 4096
    requests: int = 400
    warm_up: int = 20
    clients: int = 4


QUICK = Config(images=2_000, image_width=256, requests=20, warm_up=3)
_VOCABULARY = 100_000
_PER_REQUEST = "per request"


def make_schema() -> Schema:
    """Returns 14 fields of the user, his behaviours' ids and images, and 8 fields of the ad.

    The behaviours' and the ad's images are ids as well, in one table, as the baseline has them.
    """
    item = {"vocabulary_size": _VOCABULARY, "table": "item"}
    return Schema((
        *(Field(f"user_{k}", "sparse", side="user", vocabulary_size=_VOCABULARY)
          for k in range(13)),
        Field("behaviours", "sparse", side="user", is_list=True, source="behaviour_images", **item),
        *(Field(f"ad_{k}", "sparse", side="ad", vocabulary_size=_VOCABULARY) for k in range(7)),
        Field("item", "sparse", side="ad", source="ad_image", **item),
        Field("behaviour_images", "image", side="user", is_list=True),
        Field("ad_image", "image", side="ad"),
        Field("click", "label"),
    ))  # fmt: skip


def make_requests(
    config: Config, schema: Schema, behaviours: int, count: int
) -> list[dict[str, tf.Tensor]]:
    """Returns page views of as many users, each with ads of its own."""
    rng = np.random.default_rng(behaviours)
    requests = []
    for _ in range(count):
        request = {}
        for field in schema.inputs:
            shape = (
                (1, behaviours) if field.is_list else (1 if field.side == "user" else config.ads)
            )
            highest = config.images if field.source or field.kind == "image" else _VOCABULARY
            request[field.name] = tf.constant(rng.integers(highest, size=shape))
        for field in schema.inputs:
            if field.source:
                request[field.name] = request[field.source]
        requests.append(request)
    return requests


def make_cases(
    config: Config, schema: Schema, directory: pathlib.Path
) -> tuple[dict[str, Callable[..., Any]], Mapping[str, Callable[..., Any]]]:
    """Exports and loads all; returns each case, and the model of each to compare it with."""
    path = directory / "images.h5"
    rng = np.random.default_rng(0)
    with ImageStoreWriter(path, config.image_width, "float16") as writer:
        for begin in range(0, config.images, 5_000):
            ids = np.arange(begin, min(begin + 5_000, config.images))
            # As features behind a ReLU are: not negative, many of them zero.
            features = np.maximum(rng.normal(size=(len(ids), config.image_width)), 0)
            writer.write(ids, features.astype(np.float32))
    ids_only = build(BASE_NETWORKS[config.base](schema), schema)
    dicm = build(
        Dicm(schema, ImageStore.open(path), None, config.aggregator, base=config.base), schema
    )
    models = {"ids": ids_only, "table": dicm, "table float16": dicm}
    cases: dict[str, Callable[..., Any]] = {}
    for name, model in models.items():
        out = directory / name.replace(" ", "_")
        dtype = "float16" if name.endswith("float16") else "float32"
        export(model, schema, out, signatures=["score_ads"], table_dtype=dtype)
        cases[name] = _Served(out)
    part = dicm.served_parts()["score_ads"]
    cases[_PER_REQUEST] = tf.function(
        lambda **inputs: part.function(inputs), reduce_retracing=True
    ).get_concrete_function(**part.inputs)
    wants = {name: model.served_parts()["score_ads"].function for name, model in models.items()}
    return cases, {**wants, _PER_REQUEST: part.function}


class _Served:
    """The signature `score_ads` of a loaded export."""

    def __init__(self, path: pathlib.Path) -> None:
        # A signature does not keep its variables alive.
        self._model = tf.saved_model.load(str(path))
        self._signature = self._model.signatures["score_ads"]

    def __call__(self, **inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
        return self._signature(**inputs)


def main(arguments: list[str]) -> None:
    """Runs the benchmark."""
    del arguments
    config = QUICK if harness.FLAGS.quick else Config()
    config = dataclasses.replace(config, base=FLAGS.base, aggregator=FLAGS.aggregator)
    if FLAGS.requests:
        config = dataclasses.replace(config, requests=FLAGS.requests)
    name = "serving" if (config.base, config.aggregator) == ("mlp", "sum") else (
        f"serving_{config.base}_{config.aggregator}"
    )  # fmt: skip
    report = harness.Report(name, config)
    keras.utils.set_random_seed(0)
    schema = make_schema()
    report.ratios = {"p95_ms": {}, "p95_ratio_table": {}, "p95_ratio_per_request": {}}
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        cases, models = make_cases(config, schema, pathlib.Path(directory))
        for behaviours in config.behaviours:
            asks = _asks(config, schema, cases, models, behaviours)
            # In turn, so that a busy moment meets all; but E by itself, since the baseline would
            # come after it in each round and find none of its weights in the caches.
            timings = {}
            for names in (list(asks)[:-1], [_PER_REQUEST]):
                timings |= harness.measure_together(
                    {name: asks[name] for name in names},
                    repeats=config.requests,
                    warm_up=config.warm_up,
                )
            throughput = {name: _throughput(config, ask) for name, ask in asks.items()}
            rows += _report(report, behaviours, timings, throughput)
    print(harness.table(["behaviours", "case", "p50 ms", "p95", "p99", "requests/s"], rows))
    report.finish()


def _asks(
    config: Config,
    schema: Schema,
    cases: Mapping[str, Callable[..., Any]],
    models: Mapping[str, Callable[..., Any]],
    behaviours: int,
) -> dict[str, Callable[[], Any]]:
    """Returns a function of each case that makes one request, another each time."""
    requests = make_requests(config, schema, behaviours, count=50)
    for name, ask in cases.items():
        got = ask(**requests[0])["click_probability"].numpy()
        want = models[name](requests[0])["click_probability"].numpy()
        assert got.shape == (config.ads, 1), got.shape
        limit = 5e-3 if name.endswith("float16") else 1e-5
        np.testing.assert_allclose(got, want, rtol=0, atol=limit, err_msg=name)

    def asking(case: Callable[..., Any]) -> Callable[[], Any]:
        turns = itertools.cycle(requests)
        return lambda: case(**next(turns))["click_probability"].numpy()

    return {name: asking(case) for name, case in cases.items()}


def _throughput(config: Config, ask: Callable[[], Any]) -> float:
    """Returns requests per second of several clients that each wait for their answers."""
    with concurrent.futures.ThreadPoolExecutor(config.clients) as clients:
        start = time.perf_counter()
        for done in [clients.submit(ask) for _ in range(config.requests)]:
            done.result()
        return config.requests / (time.perf_counter() - start)


def _report(
    report: harness.Report,
    behaviours: int,
    timings: Mapping[str, harness.Timing],
    throughput: Mapping[str, float],
) -> list[list[Any]]:
    rows = []
    p95 = {}
    for name, timing in timings.items():
        p50, p95[name], p99 = (_percentile(timing, share) * 1e3 for share in (50, 95, 99))
        rows.append([behaviours, name, p50, p95[name], p99, throughput[name]])
        key = f"{name}, {behaviours} behaviours"
        report.results[key] = {
            **timing.as_json(), "p50_ms": p50, "p95_ms": p95[name], "p99_ms": p99,
            "requests_per_second": throughput[name],
        }  # fmt: skip
        report.ratios["p95_ms"][key] = p95[name]
    report.ratios["p95_ratio_table"][str(behaviours)] = p95["table"] / p95["ids"]
    report.ratios["p95_ratio_per_request"][str(behaviours)] = p95[_PER_REQUEST] / p95["ids"]
    return rows


def _percentile(timing: harness.Timing, percent: int) -> float:
    return float(np.percentile(timing.seconds, percent))


if __name__ == "__main__":
    program.run(main)
