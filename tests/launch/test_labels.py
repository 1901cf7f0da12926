"""Several labels through all programs, with weighted sparse values among the fields."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from amstf.data import parse_batch
from amstf.schema import Field, Schema
from launch.click_model import load_run
from launch.export_check import first_records
from launch.run_directory import RunDirectory
from tests.exports import ROOT, write_dataset
from tests.helpers import CLICK_SCHEMA
from tests.launch.test_train import environment

SCHEMA = Schema((*CLICK_SCHEMA.fields, Field("buy", "label")), item="item")


def launch(program, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", f"launch.{program}", *map(str, arguments)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.mark.slow
def test_from_training_to_scores(tmp_path):
    for split, count in (("train", 200), ("validation", 40), ("test", 40)):
        samples = write_dataset(tmp_path / "data", count, split, SCHEMA)
    run, out, scores = tmp_path / "run", tmp_path / "model", tmp_path / "scores.csv"
    printed = launch(
        "train", f"--dataset={samples.directory}", "--model=din", "--images=both", f"--out={run}",
        "--aggregator=multi_query", "--hidden=8", "--tower=4,3", "--batch_size=16", "--epochs=1",
    )  # fmt: skip
    assert "din, images: both in this process" in printed
    table = launch("evaluate", f"--run={run}")
    assert "test, all: 40 impressions, 20 clicks; GAUC over" in table
    assert "test, buy, all: 40 impressions, 10 with buy; GAUC over" in table
    report = json.loads((run / "evaluation-test.json").read_text())
    assert report["label"] == "click" and report["images"] == "both"
    assert report["metrics"]["all"]["clicks"] == 20
    assert report["other_labels"]["buy"]["all"]["clicks"] == 10
    assert set(report["other_labels"]["buy"]) == {"all", "new items"}

    printed = launch("export", f"--run={run}", f"--out={out}")
    assert "click_probability, buy_probability" in printed
    launch("score", f"--export={out}", f"--samples={samples.directory}", f"--out={scores}")
    with scores.open() as file:
        rows = list(csv.DictReader(file))
    model, _, config = load_run(RunDirectory(run))
    assert (config.labels, config.images) == ("all", "both")
    batch = parse_batch(tf.constant(first_records(samples, "test", 40)), SCHEMA.inputs)
    for label, values in model(batch).items():
        got = [float(row[f"{label}_probability"]) for row in rows]
        np.testing.assert_allclose(got, values.numpy().ravel(), atol=1e-5)
