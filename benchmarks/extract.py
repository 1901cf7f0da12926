"""How fast launch.extract is, against what its backbone can do with pixels in memory.

    python -m benchmarks.extract [--quick] [--keep]

Drawn product pictures (JPEG files), through backbones with random weights (which cost what trained
ones do). Compared, in turn:

  backbone   the backbone alone: decoded images that lie in memory, in batches of the same size
  extract    all of launch.extract after its start: list, decode and resize in threads, backbone,
             parts on disk, the store
  decode     files to pixels in memory alone, with as many threads as extract uses

`extract_over_backbone` says how much of the backbone's own speed is left: 1 is all of it. The
processor's cores do both the decoding and the backbone's work, so what decoding costs cannot be
hidden here, as a GPU would.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import tempfile

import numpy as np

from benchmarks import harness
from launch import program
from launch.datasets.pictures import Pictures, render
from launch.extraction.backbone import Backbone, BackboneOptions, make_backbone
from launch.extraction.extraction import Settings, extract
from launch.extraction.image_list import ImageList, list_images
from launch.extraction.pipeline import decoded_batches


@dataclasses.dataclass(frozen=True)
class Config:
    """One run.

    Attributes:
        backbones: Names of backbones, and how many images each gets.
        picture_size: Pixels of a picture's side; cameras make larger ones.
        image_size: Pixels of the backbone's input.
        batch_size: Images that the backbone gets at a time.
        repeats: Rounds.
        seed: Of the pictures.
    """

    backbones: tuple[tuple[str, int], ...] = (("vgg16:fc1", 128), ("mobilenet", 512))
    picture_size: int = 400
    image_size: int = 224
    batch_size: int = 32
    repeats: int = 5
    seed: int = 0


QUICK = Config(backbones=(("mobilenet", 32),), picture_size=64, image_size=64, repeats=2)


def measure(
    config: Config, backbone: Backbone, images: ImageList, directory: pathlib.Path
) -> dict[str, harness.Timing]:
    """Times the three ways with the same images."""
    threads = len(os.sched_getaffinity(0))

    def decode() -> list[np.ndarray]:
        batches = decoded_batches(
            images.ids.tolist(), images.paths, size=backbone.image_size, fit="stretch",
            batch_size=config.batch_size, threads=threads,
        )  # fmt: skip
        return [batch.images for batch in batches]

    pixels = decode()

    def run_all() -> None:
        settings = Settings(
            directory / "images.h5", overwrite=True, batch_size=config.batch_size, threads=threads
        )
        done = extract(images, backbone, settings)
        assert done.new == len(images) and not done.broken

    ways = {
        "backbone": lambda: [backbone.features(batch) for batch in pixels],
        "extract": run_all,
        "decode": decode,
    }
    return harness.measure_together(ways, repeats=config.repeats)


def main(arguments: list[str]) -> None:
    """Runs the benchmark."""
    del arguments
    config = QUICK if harness.FLAGS.quick else Config()
    report = harness.Report("extract", config)
    rows = []
    with tempfile.TemporaryDirectory(prefix="amstf-benchmark-") as made:
        directory = pathlib.Path(made)
        pictures = Pictures(directory / "pictures", config.picture_size, directory)
        pictures.directory.mkdir()
        most = max(count for _, count in config.backbones)
        rng = np.random.default_rng(config.seed)
        render(pictures, rng.normal(size=(most, 2)), np.arange(most), seed=config.seed)
        everything = list_images(str(pictures.directory))
        for name, count in config.backbones:
            images = ImageList(everything.ids[:count], everything.paths[:count])
            backbone = make_backbone(
                BackboneOptions(name, weights="random", image_size=config.image_size)
            )
            timings = measure(config, backbone, images, directory)
            report.results[name] = {
                way: {**timing.as_json(), "images_per_s": count / timing.median}
                for way, timing in timings.items()
            }
            ratio = timings["backbone"].median / timings["extract"].median
            key = name.replace(":", "_")
            report.ratios[f"extract_over_backbone_{key}"] = round(ratio, 3)
            rows += [
                [name, way, count / timing.median, timing.median / count * 1e3,
                 timings["backbone"].median / timing.median]
                for way, timing in timings.items()
            ]  # fmt: skip
    header = ["backbone", "way", "images/s", "ms an image", "of the backbone's speed"]
    print(harness.table(header, rows), "\n")
    report.finish()


if __name__ == "__main__":
    program.run(main)
