"""The click model that benchmarks run: its sizes, its data and its network, in one place.

A shape of the kind of arXiv 1711.06505, Table 2: 4,096 features an image, E = 4096-256-64-12 with
PReLU, 32 behaviours a sample, images as popular as a Zipf law says. Data is random, the same every
time, and made once for each shape in a folder that benchmarks share (`--cache`).
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import tempfile
from typing import Any

from absl import flags

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

import models
from amstf import ImageStore, Samples, ops
from amstf.data import SampleWriter
from amstf.schema import Field, Schema
from amstf.store import ImageStoreWriter

_CACHE = flags.DEFINE_string(
    "cache",
    str(pathlib.Path(tempfile.gettempdir(), f"amstf-benchmarks-{os.getuid()}")),
    "Where data of benchmarks is kept between runs.",
)
SPLIT = "train"
_FORMAT = 1  # Counted up when the data of a shape changes.
_ROWS_AT_ONCE = 4096


@dataclasses.dataclass(frozen=True)
class ClickShape:
    """Sizes of model and data.

    Attributes:
        image_width: Raw features of an image (F).
        tower: Widths of E; the last is that of an embedding (D).
        hidden: Widths of the MLP of the click model.
        behaviours: Behaviours of a sample (T); with the ad a sample has T + 1 images.
        batch_size: Samples of one step of one worker (B).
        images: Images in the store.
        image_dtype: Type in which they are stored.
        zipf: Exponent of their popularity: the r-th image is asked for in proportion to r**-zipf.
        users: Vocabulary of the users; items have one id each, that of their image.
        categories: Vocabulary of the categories.
        samples: Samples in the data set; workers share them and begin again at the end.
        files: Files of the data set: the workers that it can be shared among, at most.
        seed: Of all that is random.
    """

    image_width: int = 4096
    tower: tuple[int, ...] = (256, 64, 12)
    hidden: tuple[int, ...] = (128, 64)
    behaviours: int = 32
    batch_size: int = 1024
    images: int = 65_536
    image_dtype: str = "float16"
    zipf: float = 0.8
    users: int = 100_000
    categories: int = 1_000
    samples: int = 8_192
    files: int = 8
    seed: int = 0

    @property
    def embedding_width(self) -> int:
        """Floats of an image's embedding (D)."""
        return self.tower[-1]

    @property
    def tower_weights(self) -> int:
        """Weights of E: kernels, biases, and the slopes of PReLU."""
        widths = (self.image_width, *self.tower)
        return sum(a * b + 2 * b for a, b in itertools.pairwise(widths))

    @property
    def schema(self) -> Schema:
        """Fields of a sample: ids of the user, the items and a category; images; a click."""
        items = {"vocabulary_size": self.images, "table": "item"}
        width = {"embedding_width": self.embedding_width}
        behaviours: dict[str, Any] = {"is_list": True, "max_length": self.behaviours}
        return Schema(
            (
                Field("user", "sparse", side="user", vocabulary_size=self.users, **width),
                Field("behaviour_images", "image", side="user", **behaviours),
                # The ids of the images are ids like any other too, as in the paper's baseline.
                Field("behaviours", "sparse", side="user", source="behaviour_images",
                      **items, **width, **behaviours),
                Field("ad_image", "image", side="ad"),
                Field("ad", "sparse", side="ad", source="ad_image", **items, **width),
                Field("category", "sparse", side="ad", vocabulary_size=self.categories, **width),
                Field("price", "dense", side="ad"),
                Field("click", "label"),
            )
        )  # fmt: skip

    def quick(self) -> ClickShape:
        """The same at sizes at which a run ends in seconds."""
        return dataclasses.replace(
            self, image_width=1024, batch_size=128, images=8_192, samples=1_024
        )


@dataclasses.dataclass(frozen=True)
class ClickData:
    """Data of a shape on disk.

    Attributes:
        shape: What it was made for.
        samples: The samples, with image ids.
        store: The images.
    """

    shape: ClickShape
    samples: Samples
    store: ImageStore

    def batches(
        self, num_workers: int = 1, *, fields: list[str] | None = None, worker: int | None = None
    ) -> tf.data.Dataset:
        """Returns the batches of one worker, for ever, in an order that is always the same.

        Args:
            num_workers: Workers that share the samples (W).
            fields: Names of the fields to parse; all by default.
            worker: Index of the worker; by default the one in whose process the pipeline runs.

        Returns:
            Pairs of inputs and clicks, B samples each.
        """
        index = (lambda: ops.task_location()[1]) if worker is None else worker
        return self.samples.dataset(
            SPLIT,
            self.shape.batch_size,
            repeat=True,
            drop_remainder=True,
            fields=fields,
            shard=(num_workers, index) if num_workers > 1 else None,
        )

    def distinct_images(self, num_workers: int = 1, steps: int | None = None) -> float:
        """Returns how many distinct images (U) a worker's step has, the mean over steps.

        Args:
            num_workers: Workers that share the samples (W).
            steps: Steps of each worker, from the first; by default those of one pass.
        """
        if steps is None:
            steps = max(1, self.shape.samples // num_workers // self.shape.batch_size)
        counts = []
        for worker in range(num_workers):
            wanted = self.batches(
                num_workers, fields=["behaviour_images", "ad_image"], worker=worker
            )
            for inputs, _ in wanted.take(steps).as_numpy_iterator():
                ids = np.concatenate([values.reshape(-1) for values in inputs.values()])
                counts.append(np.unique(ids[ids >= 0]).size)
        return float(np.mean(counts))


def cache_directory() -> pathlib.Path:
    """Where data of benchmarks is kept: `--cache`."""
    return pathlib.Path(_CACHE.value)


def prepare(shape: ClickShape, directory: str | os.PathLike | None = None) -> ClickData:
    """Makes the data of a shape, unless it is there already.

    Args:
        shape: The sizes; batch size and network may differ between uses of one data set.
        directory: Where data of all shapes is kept; by default what `--cache` says.

    Returns:
        The data, open.
    """
    root = pathlib.Path(directory or cache_directory())
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"click-{_fingerprint(shape)}"
    with open(root / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            partial = path.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            print(f"making {shape.images:,} images and {shape.samples:,} samples in {path}",
                  flush=True)  # fmt: skip
            _write_images(shape, partial / "images.h5")
            _write_samples(shape, partial / "samples")
            partial.rename(path)
    return ClickData(shape, Samples.open(path / "samples"), ImageStore.open(path / "images.h5"))


def make_model(
    shape: ClickShape,
    images: ImageStore | None,
    image_embedding: keras.layers.Layer | None = None,
) -> keras.Model:
    """Makes the click model, DICM with sum pooling; call it in the scope of a strategy.

    Args:
        shape: The sizes.
        images: The store; None with `image_embedding`.
        image_embedding: Layer from ids to embeddings that replaces store and E.
    """
    tower = models.image_tower(shape.tower) if image_embedding is None else None
    return models.Dicm(
        shape.schema, images, tower, hidden=shape.hidden, image_embedding=image_embedding
    )


def _fingerprint(shape: ClickShape) -> str:
    """Of all that the data depends on."""
    sizes = dataclasses.asdict(shape)
    for name in ("tower", "hidden", "batch_size"):
        del sizes[name]
    text = json.dumps([_FORMAT, sizes, shape.schema.to_json()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _write_images(shape: ClickShape, path: pathlib.Path) -> None:
    rng = np.random.default_rng([shape.seed, 0])
    with ImageStoreWriter(path, shape.image_width, shape.image_dtype) as writer:
        for begin in range(0, shape.images, _ROWS_AT_ONCE):
            ids = np.arange(begin, min(begin + _ROWS_AT_ONCE, shape.images))
            features = rng.standard_normal((len(ids), shape.image_width), np.float32)
            # Half zeros, half positive: what a network's ReLU leaves.
            writer.write(ids, np.maximum(features, 0, out=features))


def _write_samples(shape: ClickShape, directory: pathlib.Path) -> None:
    rng = np.random.default_rng([shape.seed, 1])
    images = popular_images(shape, rng, shape.samples * (shape.behaviours + 1))
    images = images.reshape(shape.samples, shape.behaviours + 1)
    users = rng.integers(shape.users, size=shape.samples)
    with SampleWriter(directory, shape.schema, SPLIT, num_shards=shape.files) as writer:
        for user, row in zip(users, images, strict=True):
            writer.write(
                {
                    "user": user,
                    "behaviour_images": row[1:],
                    "ad_image": row[0],
                    "category": row[0] % shape.categories,
                    "price": rng.random(),
                    "click": float(rng.random() < 0.3),
                }
            )


def popular_images(shape: ClickShape, rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws image ids, int64 [count], as often as their popularity says."""
    return _by_popularity(shape.images, shape.seed)[
        np.searchsorted(_cumulative(shape.images, shape.zipf), rng.random(count))
    ]


@functools.cache
def _by_popularity(images: int, seed: int) -> np.ndarray:
    # Not in the order of ids: popular images must lie on all servers.
    return np.random.default_rng([seed, 2]).permutation(images)


@functools.cache
def _cumulative(images: int, zipf: float) -> np.ndarray:
    weights = np.arange(1, images + 1, dtype=np.float64) ** -zipf
    cumulative = np.cumsum(weights) / weights.sum()
    cumulative[-1] = 1.0
    return cumulative
