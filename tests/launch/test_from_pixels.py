"""The whole road, as a new user walks it: render, extract, train, export."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats

from amstf.store import ImageStore
from launch.datasets.synthetic import SyntheticConfig, generate
from tests.launch.extraction.conftest import keras_file  # noqa: F401

ROOT = pathlib.Path(__file__).parents[2]


def run(program, *arguments):
    command = [sys.executable, "-m", f"launch.{program}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_pixels_to_a_model(tmp_path, keras_file):  # noqa: F811
    data, pictures = tmp_path / "data", tmp_path / "pictures"
    said = run(
        "prepare", "synthetic", f"--out={data}", f"--render={pictures}", "--picture_size=24",
        "--users=30", "--items=60", "--impressions=1500", "--num_shards=2",
    )  # fmt: skip
    assert len(list(pictures.glob("*.jpg"))) == 60
    extraction, conversion = re.findall(r"python -m launch\.(.*)", said)
    said = run(*extraction.split(), f"--backbone={keras_file}:means")
    assert f"next: python -m launch.store sample {pictures}.h5" in said
    raw = ImageStore.open(f"{pictures}.h5")
    assert len(raw) == 60 and raw.width == 3
    # Means of the channels know the colour, which is the first dimension of style.
    config = SyntheticConfig(users=30, items=60, impressions=1500)
    features = raw.read(np.arange(60))
    redness = features[:, 0] - features[:, 2]
    assert scipy.stats.spearmanr(redness, generate(config).style[:, 0])[0] > 0.6

    said = run(*conversion.split())
    assert f"next: python -m launch.train --dataset={data} --model=dicm" in said
    run("train", f"--dataset={data}", "--model=dicm", f"--out={tmp_path}/run", "--epochs=1",
        "--tower=4,2")  # fmt: skip
    said = run("export", f"--run={tmp_path}/run", f"--out={tmp_path}/export")
    assert "images: 60 images as embeddings of 2 (raw: 3 features each" in said
    sheet = tmp_path / "sheet.png"
    said = run(
        "store", "sample", data / "images.h5", f"--out={sheet}", "--rows=2", f"--run={tmp_path}/run"
    )
    assert f"{sheet}: 2 images with 7 neighbours each, by embeddings of {tmp_path}/run" in said
