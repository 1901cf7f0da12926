"""Store-in-worker: click samples that carry the features of their images, as a baseline.

What a cluster does that has no image servers: each TFRecord holds the features of its 33 images
beside their ids, the worker that reads it has them, and E is a part of the worker's model.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import numpy as np
import tensorflow as tf
import tf_keras as keras

import models
from amstf import ops
from amstf.data import parse_batch
from benchmarks.click_shape import SPLIT, ClickData, ClickShape

FEATURES = "image_features"
_IMAGES = ("ad_image", "behaviour_images")


@dataclasses.dataclass(frozen=True)
class SamplesWithImages:
    """Samples of a shape that carry their images.

    Attributes:
        data: The samples and the store that they were made from.
        files: One file for each worker.
    """

    data: ClickData
    files: tuple[pathlib.Path, ...]

    def batches(self) -> tf.data.Dataset:
        """Returns the batches of the worker in whose process the pipeline runs, for ever.

        The features of a step's distinct images are "image_features" [U, F]; the image fields of
        the batch hold rows of it in place of ids. The fields of ids are what they were.
        """
        shape = self.data.shape
        paths = tf.data.Dataset.from_tensor_slices([str(path) for path in self.files])

        def of_this_worker(_: tf.Tensor) -> tf.data.Dataset:
            worker = tf.cast(ops.task_location()[1], tf.int64)
            return tf.data.TFRecordDataset(paths.shard(len(self.files), worker))

        records = tf.data.Dataset.from_tensors(0).flat_map(of_this_worker).repeat()
        batches = records.batch(shape.batch_size, drop_remainder=True)
        # One batch ahead: its images take as much memory as those of the step.
        return batches.map(lambda serialized: _parse(shape, serialized)).prefetch(1)


def _parse(shape: ClickShape, serialized: tf.Tensor) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    fields = (*shape.schema.inputs, *shape.schema.labels)
    batch = parse_batch(serialized, fields)
    clicks = batch.pop("click")
    carried = tf.io.FixedLenFeature([shape.behaviours + 1], tf.string)
    features = tf.io.parse_example(serialized, {FEATURES: carried})[FEATURES]
    ids = tf.concat([batch["ad_image"][:, None], batch["behaviour_images"]], axis=1)
    flat = tf.reshape(ids, [-1])
    # Even here each distinct image is decoded and embedded once.
    distinct, rows = tf.unique(flat, tf.int64)
    count = tf.size(distinct, tf.int64)
    first = tf.math.unsorted_segment_min(tf.range(tf.size(flat, tf.int64)), rows, count)
    decoded = tf.io.decode_raw(
        tf.gather(tf.reshape(features, [-1]), first), tf.as_dtype(shape.image_dtype)
    )
    batch[FEATURES] = tf.ensure_shape(tf.cast(decoded, tf.float32), [None, shape.image_width])
    rows = tf.reshape(rows, tf.shape(ids))
    batch["ad_image"], batch["behaviour_images"] = rows[:, 0], rows[:, 1:]
    return batch, clicks


def prepare(data: ClickData, num_workers: int, batches: int = 1) -> SamplesWithImages:
    """Copies a data set's first samples with their images, unless it was done before.

    Args:
        data: The samples and the images.
        num_workers: Workers that will read them; each gets a file.
        batches: Batches that a worker has before it begins again.
    """
    shape = data.shape
    each = shape.batch_size * batches
    directory = data.samples.directory.parent / f"with-images-{num_workers}x{each}"
    with open(data.samples.directory.parent / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            total = num_workers * each
            print(f"copying the images of {total:,} samples into them in {directory}", flush=True)
            partial = directory.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            for worker in range(num_workers):
                _write(data, num_workers, worker, each, partial / f"{worker:05d}.tfrecord")
            partial.rename(directory)
    return SamplesWithImages(data, tuple(sorted(directory.glob("*.tfrecord"))))


def _write(
    data: ClickData, num_workers: int, worker: int, samples: int, path: pathlib.Path
) -> None:
    """Writes what the worker would read of the data set itself, so that all ways see the same."""
    shape = data.shape
    stored = [(field.name, field.kind) for field in shape.schema.stored]
    batches = data.batches(num_workers, worker=worker)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for inputs, clicks in batches.take(samples // shape.batch_size).as_numpy_iterator():
            columns = {**inputs, "click": clicks}
            for i in range(shape.batch_size):
                example = tf.train.Example()
                feature = example.features.feature
                for name, kind in stored:
                    value = np.atleast_1d(columns[name][i])
                    if kind in ("dense", "label"):
                        feature[name].float_list.value.extend(value)
                    else:
                        feature[name].int64_list.value.extend(value)
                ids = np.concatenate([np.atleast_1d(columns[name][i]) for name in _IMAGES])
                rows = data.store.read(ids).astype(shape.image_dtype)
                feature[FEATURES].bytes_list.value.extend(row.tobytes() for row in rows)
                writer.write(example.SerializeToString())


class _Carried(keras.layers.Layer):
    """Takes embeddings of the step's images by row, in the place of the layer that looks up ids."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._embeddings: tf.Tensor | None = None

    @contextlib.contextmanager
    def of(self, embeddings: tf.Tensor) -> Iterator[None]:
        """Says where the rows are, for the calls in the block."""
        self._embeddings = embeddings
        try:
            yield
        finally:
            self._embeddings = None

    def call(self, rows: tf.Tensor) -> tf.Tensor:
        """Maps rows [n] to embeddings [n, D]."""
        return tf.gather(self._embeddings, rows)


class DicmOnCarriedImages(models.Dicm):
    """DICM whose images come in the batch; else the network of `click_shape.make_model`."""

    def __init__(self, shape: ClickShape) -> None:
        carried = _Carried(name="carried")
        super().__init__(shape.schema, hidden=shape.hidden, image_embedding=carried)
        self._carried = carried
        self.embedding_model = models.image_tower(shape.tower)

    def join(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """See `Dicm.join`; embeds the images of the batch before."""
        with self._carried.of(self.embedding_model(inputs[FEATURES])):
            return super().join(inputs)


def stored_bytes(data: ClickData, carrying: SamplesWithImages) -> dict[str, float]:
    """Measures on disk what storage costs: bytes of a sample, with images and without, of an image.

    Returns:
        "sample", "sample_with_images", "image".
    """
    with_images = sum(path.stat().st_size for path in carrying.files)
    count = sum(1 for path in carrying.files for _ in tf.data.TFRecordDataset(str(path)))
    plain = sum(pathlib.Path(path).stat().st_size for path in data.samples.files(SPLIT))
    images = sum(pathlib.Path(path).stat().st_size for path in data.store.paths)
    return {
        "sample": plain / data.samples.num_records(SPLIT),
        "sample_with_images": with_images / count,
        "image": images / len(data.store),
    }
