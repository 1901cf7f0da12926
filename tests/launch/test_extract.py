"""The program as a person runs it."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from amstf.data import Samples
from amstf.store import ImageStore
from launch.extraction import work_directory
from tests.launch.extraction.conftest import keras_file  # noqa: F401

ROOT = pathlib.Path(__file__).parents[2]
IMAGES = work_directory.PART_IMAGES + 700


def command(*arguments):
    return [sys.executable, "-m", "launch.extract", *map(str, arguments)]


def run(*arguments, **options):
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=120, **options
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Pictures whose first channel holds the id's low byte, and a list with ids of its own."""
    directory = tmp_path_factory.mktemp("many")
    lines = ["id,path"]
    for number in range(IMAGES):
        pixels = np.full((8, 8, 3), (number % 256, number // 256, 7), np.uint8)
        Image.fromarray(pixels).save(directory / f"{number}.bmp")
        lines.append(f"{10 * number},{number}.bmp")
    (directory / "images.csv").write_text("\n".join(lines) + "\n")
    return directory


def test_killed_at_any_moment_no_image_is_lost_or_double(many, keras_file, small_dataset, tmp_path):  # noqa: F811
    dataset = tmp_path / "data"
    dataset.mkdir()
    for file in pathlib.Path(small_dataset).iterdir():
        os.symlink(file, dataset / file.name)
    manifest = (dataset / "manifest.json").read_bytes()
    (dataset / "manifest.json").unlink()
    (dataset / "manifest.json").write_bytes(manifest)
    out = dataset / "pixels.h5"
    flags = [
        f"--images={many}/images.csv", f"--out={out}", f"--backbone={keras_file}:means",
        "--batch_size=1", f"--dataset={dataset}",
    ]  # fmt: skip
    process = subprocess.Popen(command(*flags), cwd=ROOT)
    part = dataset / ".pixels.h5.extracting/part-000000.h5"
    deadline = time.monotonic() + 100
    while not part.exists() and time.monotonic() < deadline:
        assert process.poll() is None, "ended before it was killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    assert part.exists() and not out.exists()

    done = run(*flags)
    assert (done.returncode, done.stderr) == (0, "")
    store = ImageStore.open(out)
    numbers = np.arange(IMAGES)
    assert sorted(store.ids.tolist()) == (10 * numbers).tolist()
    features = store.read(10 * numbers)
    np.testing.assert_array_equal(features[:, 0], numbers % 256)
    np.testing.assert_array_equal(features[:, 1], numbers // 256)
    assert f"pixels.h5: {IMAGES:,} images of 3 features, float16" in done.stdout
    assert f"done by a run that was stopped: {work_directory.PART_IMAGES:,} images" in done.stdout
    assert "rounding to float16: features change by 0.000%" in done.stdout
    assert f"next: python -m launch.train --dataset={dataset}" in done.stdout
    assert not list(dataset.glob(".*"))
    assert store.attributes["made_by"] == "launch.extract"
    # The data set's store, under a path that moves with it.
    assert Samples.open(dataset).manifest.images["images"] == "pixels.h5"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--images=/nowhere"], "error: --images=/nowhere: no images there"),
        (["--images={many}", "--out=images.txt"], "its name must end in .h5"),
        (
            ["--images={many}", "--backbone_arguments=alpha"],
            "got 'alpha', wanted such as alpha=0.25",
        ),
        (["--images={many}", "--dataset=/nowhere"], "/nowhere"),
    ],
)
def test_bad_flags_are_one_line(flags, words, many, tmp_path):
    done = run(f"--out={tmp_path}/images.h5", *(flag.format(many=many) for flag in flags))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and words in done.stderr
    assert not list(tmp_path.iterdir())
