"""The program as a person runs it."""

import pathlib
import subprocess
import sys

import h5py
import numpy as np
import pytest
from PIL import Image

from amstf.data import Samples
from amstf.store import ImageStore, ImageStoreWriter

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "-m", "launch.store", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    directory = tmp_path_factory.mktemp("store")
    (directory / "pictures").mkdir()
    for image in range(12):
        Image.new("RGB", (20, 20), (20 * image, 0, 0)).save(directory / f"pictures/{image}.png")
    path = directory / "images.h5"
    attributes = {"backbone": "VGG16", "images": str(directory / "pictures")}
    with ImageStoreWriter(path, 3, attributes=attributes) as writer:
        writer.write(np.arange(12), np.eye(12, 3) + 1)
    return path


def test_info_and_verify(store, tmp_path):
    info = run("info", store)
    assert (info.returncode, info.stderr) == (0, "") and "VGG16" in info.stdout
    damaged = tmp_path / "images.h5"
    damaged.write_bytes(store.read_bytes())
    with h5py.File(damaged, "r+") as file:
        file["features"][0, 0] = 7
    result = run("verify", damaged)
    assert result.returncode == 2 and f"{damaged}: NOT sound" in result.stdout
    assert result.stderr.startswith(
        f"error: {damaged} is not sound: images.h5: features have CRC-32"
    )
    assert result.stderr.count("\n") == 1


def test_merge_says_what_it_wrote(store, tmp_path):
    with ImageStoreWriter(tmp_path / "b.h5", 3, attributes={"backbone": "VGG16"}) as writer:
        writer.write([5, 99], np.ones((2, 3)))
    result = run(
        "merge", store, tmp_path / "b.h5", f"--out={tmp_path}/m.h5", "--duplicates=first",
        "--dtype=float16",
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, "")
    assert f"{tmp_path}/m.h5: 13 images of 3 features, float16" in result.stdout
    assert "rounding to float16: features change by 0.000%" in result.stdout
    assert len(ImageStore.open(tmp_path / "m.h5")) == 13


def test_convert_for_a_data_set(small_dataset, tmp_path):
    samples = Samples.open(small_dataset)
    raw = samples.image_store_path("images")
    directory = tmp_path / "data"
    directory.mkdir()
    for file in small_dataset.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    flags = ["convert", raw, f"--out={directory}/mapped.h5"]
    alone = run(*flags, "--standardise")
    assert alone.returncode == 2 and "name a data set with --dataset" in alone.stderr
    done = run(*flags, "--standardise", f"--dataset={directory}", "--dtype=float32")
    assert (done.returncode, done.stderr) == (
        0,
        "",
    ) and "next: python -m launch.train" in done.stdout
    assert Samples.open(directory).manifest.images["images"] == "mapped.h5"
    store = ImageStore.open(directory / "mapped.h5")
    assert store.dtype == "float32" and (directory / store.attributes["map"]).exists()
    assert abs(store.read(store.ids).mean()) < 0.2
    again = run("convert", directory / "mapped.h5", f"--out={tmp_path}/x.h5", "--pca=2", *flags[3:],
                f"--dataset={directory}")  # fmt: skip
    assert again.returncode == 2 and "holds mapped features already" in again.stderr


def test_a_sample_by_features_and_by_an_export(store, tmp_path):
    import tensorflow as tf

    class Embeds(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32, "features")])
        def embed(self, features):
            return {"embeddings": features[:, :2]}

    module = Embeds()
    tf.saved_model.save(module, str(tmp_path / "e"), {"embed_images": module.embed})
    for name, flags in (("raw", []), ("E", [f"--export={tmp_path}/e"])):
        out = tmp_path / f"{name}.png"
        done = run("sample", store, f"--out={out}", "--queries=0,3", "--neighbours=2", *flags)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"{out}: 2 images with 2 neighbours each, by" in done.stdout
        with Image.open(out) as sheet:
            assert sheet.width > 3 * 128 and sheet.height > 2 * 128


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "say what to do: info, verify"),
        (["look", "{store}"], "got look"),
        (["info"], "info takes one store"),
        (["info", "{store}", "{store}"], "info takes one store"),
        (["merge", "{store}"], "merge needs --out"),
        (["split", "{store}", "--out={tmp}/o.h5"], "split needs --num_files=N, or --ids=FILE"),
        (["sample", "{store}", "--out={tmp}/o.jpg"], "must end in .png"),
        (["sample", "{store}", "--out={tmp}/o.png", "--queries=77"], "the store has no image 77"),
        (["info", "{tmp}/none.h5"], "none.h5 does not exist"),
    ],
)
def test_what_makes_no_sense_is_one_line(arguments, words, store, tmp_path):
    done = run(*(argument.format(store=store, tmp=tmp_path) for argument in arguments))
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert words in done.stderr
