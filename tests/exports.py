"""A small data set with images, and what a process without this project makes of an export."""

import pathlib
import subprocess
import sys

import numpy as np

from amstf.data import Samples, SampleWriter, set_image_store
from amstf.schema import Schema
from amstf.store import ImageStore, ImageStoreWriter
from launch.export_check import read_answers, write_questions
from tests.helpers import CLICK_SCHEMA

ROOT = pathlib.Path(__file__).parents[1]
NUM_IMAGES = 30
FEATURES = np.random.default_rng(7).normal(size=(NUM_IMAGES, 5)).astype(np.float32)


def write_store(path, features=FEATURES) -> ImageStore:
    """Writes a store whose ids are in no order."""
    ids = np.random.default_rng(3).permutation(NUM_IMAGES)
    with ImageStoreWriter(path, width=features.shape[1]) as writer:
        writer.write(ids, features[ids])
    return ImageStore.open(path)


def sample(k: int) -> dict:
    rng = np.random.default_rng(k)
    words = [f"wört {word}" for word in rng.integers(9, size=k % 4)]
    return {
        "user": k % 20,
        "words": words,
        "words.weight": rng.uniform(0.5, 2, size=len(words)).tolist(),
        "item": k % 30,
        "price": rng.normal(size=2).tolist(),
        "image": None if k % 5 == 1 else int(rng.integers(NUM_IMAGES)),
        "liked_images": rng.integers(NUM_IMAGES, size=k % 6).tolist(),
        "click": float(k % 2),
        "user_key": k % 20,
    }


def write_dataset(
    directory, count: int = 40, split: str = "test", schema: Schema = CLICK_SCHEMA
) -> Samples:
    """Writes a data set with an image store; the first sample has neither words nor behaviours.

    Of a schema with a label `buy` each second click is one.
    """
    with SampleWriter(directory, schema, split, num_shards=2) as writer:
        for k in range(count):
            further = {"buy": float(k % 4 == 3)} if "buy" in schema else {}
            writer.write({**sample(k), **further})
    if not (pathlib.Path(directory) / "images.h5").exists():
        write_store(pathlib.Path(directory) / "images.h5")
        set_image_store(directory, "images.h5")
    return Samples.open(directory)


def ask_elsewhere(questions, directory) -> list[np.ndarray]:
    """Lets a process that has only TensorFlow answer [(export, signature, {input: array})]."""
    ask, answer = directory / "questions", directory / "answers"
    write_questions(ask, questions)
    script = ROOT / "launch" / "reload_check.py"
    done = subprocess.run(
        [sys.executable, "-I", str(script), str(ask), str(answer)],
        cwd=directory,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return read_answers(answer)
