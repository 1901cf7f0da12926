"""How fast raw image features are read from a store, against h5py and against copying memory.

    python -m benchmarks.store [--quick] [--keep]

20,000 random rows of 4,096 features, all in the page cache. Compared:

  lookup          amstf's op, called eagerly, result in the memory that TensorFlow gives it
  h5py            h5py's fancy indexing as its documentation asks: sorted, then put back in order
  numpy memmap    the same rows by numpy's fancy indexing of the mapped file (mapped beforehand)
  memcpy          numpy copies as many bytes in one piece, into memory that is there already
  memcpy, fresh   the same into new memory, whose pages the system must first provide
  memcpy, threads the same as memcpy with two threads, half of the bytes each

A ratio says how many times faster the lookup is; bytes counted are those of the float32 result.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import pathlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from absl import flags

import amstf  # noqa: F401  # isort: skip - selects Keras 2 before TensorFlow is imported
import h5py
import numpy as np
import tensorflow as tf

from amstf import ops
from amstf.store import ImageStore, ImageStoreWriter
from benchmarks import harness
from launch import program

flags.DEFINE_string("dir", None, "Where to write the stores; a temporary directory by default.")


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        images: Images in the store.
        rows: Rows of a lookup (n), distinct and in random order.
        width: Features of an image (F).
        repeats: Rounds of the fast ways; h5py is measured for `slow_seconds`.
        slow_seconds: Time for h5py, per type.
        ids: Sizes of the stores that are opened.
        seed: Of the rows.
    """

    images: int = 40_000
    rows: int = 20_000
    width: int = 4096
    repeats: int = 15
    slow_seconds: float = 15.0
    ids: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    seed: int = 0


QUICK = Config(images=4_000, rows=2_000, repeats=5, slow_seconds=3.0, ids=(1_000, 100_000))


def write_store(path: pathlib.Path, images: int, width: int, dtype: str, seed: int) -> ImageStore:
    """Writes a store of random features."""
    rng = np.random.default_rng(seed)
    with ImageStoreWriter(path, width, dtype) as writer:
        ids = rng.permutation(images * 3)[:images]
        for begin in range(0, images, 4000):
            block = ids[begin : begin + 4000]
            writer.write(block, rng.random((len(block), width), np.float32))
    return ImageStore.open(path)


def read_with_h5py(store: ImageStore, rows: np.ndarray) -> np.ndarray:
    """Rows of a store, float32, through h5py."""
    order = np.argsort(rows)
    features = np.empty((len(rows), store.width), np.float32)
    with h5py.File(store.paths[0]) as file:
        features[order] = file["features"][rows[order]]
    return features


def measure_lookup(config: Config, store: ImageStore) -> dict[str, harness.Timing]:
    """Times all ways to read the same random rows, after checking that they agree."""
    rows = np.random.default_rng(config.seed).choice(len(store), config.rows, replace=False)
    ids = tf.constant(store.ids[rows])
    handle = ops.image_store(store.files, store.width, tf.as_dtype(store.dtype))
    mapped = store.files[0].features()
    source = np.random.default_rng(1).random((config.rows, config.width), np.float32)
    target = np.empty_like(source)
    halves = np.array_split(np.arange(config.rows), 2)
    slices = [slice(half[0], half[-1] + 1) for half in halves]

    with concurrent.futures.ThreadPoolExecutor(len(slices)) as pool:
        ways: dict[str, Callable[[], Any]] = {
            "lookup": lambda: ops.image_lookup(handle, ids)[0],
            "numpy memmap": lambda: mapped[rows].astype(np.float32, copy=False),
            "memcpy": lambda: np.copyto(target, source),
            "memcpy, fresh": source.copy,
            "memcpy, threads": lambda: list(
                pool.map(lambda part: np.copyto(target[part], source[part]), slices)
            ),
        }
        wanted = read_with_h5py(store, rows)
        for name in ("lookup", "numpy memmap"):
            np.testing.assert_array_equal(ways[name](), wanted, err_msg=name)
        del wanted
        timings = harness.measure_together(ways, repeats=config.repeats, warm_up=2)
    timings["h5py"] = harness.measure(
        lambda: read_with_h5py(store, rows), repeats=config.repeats, warm_up=0,
        seconds=config.slow_seconds,
    )  # fmt: skip
    return timings


def measure_open(directory: pathlib.Path, config: Config, images: int) -> dict[str, harness.Timing]:
    """Times the opening of a store of narrow rows: by Python, and by the op on its device."""
    path = directory / f"open-{images}.h5"
    store = write_store(path, images, 8, "float16", config.seed)

    def open_op() -> tf.Tensor:
        # A name of its own each time, or the op would return the store that is already open.
        open_op.calls += 1
        files = [dataclasses.replace(store.files[0], modified=open_op.calls)]
        return ops.image_store(files, store.width, tf.float16)

    open_op.calls = 0
    timings = harness.measure_together(
        {"ImageStore.open": lambda: ImageStore.open(path), "op": open_op}, repeats=5
    )
    path.unlink()
    return timings


def main(arguments: list[str]) -> None:
    """Runs the benchmark."""
    del arguments
    config = QUICK if harness.FLAGS.quick else Config()
    report = harness.Report("store", config)
    made = None if harness.FLAGS.dir else tempfile.mkdtemp(prefix="amstf-benchmark-")
    directory = pathlib.Path(made or harness.FLAGS.dir)
    try:
        lookups = []
        for dtype in ("float32", "float16"):
            store = write_store(
                directory / f"{dtype}.h5", config.images, config.width, dtype, config.seed
            )
            timings = measure_lookup(config, store)
            pathlib.Path(store.paths[0]).unlink()
            report.results[dtype] = {name: timing.as_json() for name, timing in timings.items()}
            suffix = "" if dtype == "float32" else "_float16"
            for key, other in (
                ("lookup_over_h5py", "h5py"),
                ("lookup_over_memcpy", "memcpy"),
                ("lookup_over_memcpy_fresh", "memcpy, fresh"),
                ("lookup_over_memcpy_threads", "memcpy, threads"),
                ("lookup_over_memmap", "numpy memmap"),
            ):
                ratio = timings[other].median / timings["lookup"].median
                report.ratios[key + suffix] = round(ratio, 3)
            size = config.rows * config.width * 4
            lookups += [
                [dtype, name, *_milliseconds(timing), size / timing.median / 1e9,
                 timing.median / timings["lookup"].median, len(timing.seconds)]
                for name, timing in timings.items()
            ]  # fmt: skip
        print(f"{config.rows:,} random rows of {config.width:,} features")
        header = ["stored", "way", "ms", "min", "max", "GB/s", "lookup is x faster", "repeats"]
        print(harness.table(header, lookups), "\n")

        opened = []
        report.results["open"] = {}
        for images in config.ids:
            timings = measure_open(directory, config, images)
            report.results["open"][str(images)] = {n: t.as_json() for n, t in timings.items()}
            for name, timing in timings.items():
                nanoseconds = timing.median / images * 1e9
                opened.append([f"{images:,}", name, *_milliseconds(timing), nanoseconds])
        print(harness.table(["ids", "opened by", "ms", "min", "max", "ns per id"], opened), "\n")
    finally:
        if made:
            shutil.rmtree(made)
    report.finish()


def _milliseconds(timing: harness.Timing) -> list[float]:
    return [value * 1e3 for value in (timing.median, *timing.spread)]


if __name__ == "__main__":
    program.run(main)
