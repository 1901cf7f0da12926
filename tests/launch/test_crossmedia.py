"""The whole road as a person goes it: CrossMedia's files, its network on a cluster, scores."""

import json

import numpy as np
import pytest

from launch.click_model import load_run
from launch.run_directory import RunDirectory
from tests.launch.datasets.crossmedia_files import (
    random_images,
    random_lines,
    write_images,
    write_lines,
)
from tests.launch.test_labels import launch


@pytest.mark.slow
def test_from_files_to_scores(tmp_path):
    images = random_images(40, 24)
    prefix = write_images(tmp_path / "imgs", images)
    samples = write_lines(tmp_path / "data.txt", random_lines(120, list(images)))
    data, run, export = tmp_path / "data", tmp_path / "run", tmp_path / "export"
    printed = launch(
        "prepare", "crossmedia", f"--samples={samples}", f"--images={prefix}", f"--out={data}",
        "--hash_size=1000", "--num_shards=2",
    )  # fmt: skip
    assert "user_images: 40 of 24 features, float32" in printed
    assert f"next: python -m launch.train --dataset={data} --preset=crossmedia" in printed

    train = ("train", f"--dataset={data}", "--preset=crossmedia", "--epochs=1")
    printed = launch(*train, f"--out={run}", "--cluster=1x2")
    assert "each impression once a pass" in printed and "user_images: " in printed
    report = json.loads((run / "report.json").read_text())
    servers = report["image_servers"]
    assert servers["ps-0"]["ids_asked"] == report["images"]["user_images"]["ids_looked_up"] > 0
    assert servers["ps-1"]["ids_asked"] == report["images"]["ad_images"]["ids_looked_up"] > 0
    assert servers["ps-0"]["images"] == servers["ps-1"]["images"] == 40
    config = report["config"]
    assert (config["hidden"], config["activation"]) == ([100, 10], "relu")
    assert (config["learning_rate"], config["separate_towers"]) == (0.0005, True)

    # One worker does the steps of one process, on two model servers or on none.
    launch(*train, f"--out={tmp_path / 'alone'}")
    model, _, _ = load_run(RunDirectory(run), which="last")
    alone, _, _ = load_run(RunDirectory(tmp_path / "alone"), which="last")
    for got, want in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5)

    printed = launch("export", f"--run={run}", f"--out={export}")
    assert "embed_images_ad_images" in printed and "embed_images_user_images" in printed
    launch("score", f"--export={export}", f"--samples={data}", f"--out={tmp_path / 'scores.csv'}")
    assert (tmp_path / "scores.csv").read_text().startswith("record,click_probability\n0,0.")
