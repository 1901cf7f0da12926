"""A data set in groups through the programs: trained on a cluster, evaluated and scored."""

import numpy as np
import pytest
import tensorflow as tf

from amstf.data import Samples, parse_batch
from launch import click_model, evaluation, scoring
from launch.datasets import synthetic
from launch.export_check import first_records
from launch.run_directory import RunDirectory
from tests.launch.training_program import report_of, train


@pytest.mark.slow
def test_training_on_a_cluster_evaluating_and_scoring(tmp_path):
    config = synthetic.SyntheticConfig(
        users=120, items=150, impressions=4_000, image_width=24, behaviours=5, page_size=4, seed=3
    )
    for name, group_size in (("plain", None), ("grouped", 16)):
        (tmp_path / name).mkdir()
        synthetic.prepare(config, tmp_path / name, num_shards=4, group_size=group_size)
    plain, grouped = (Samples.open(tmp_path / name) for name in ("plain", "grouped"))
    run = tmp_path / "run"

    done = train(grouped.directory, run, "--cluster=2x1", "--epochs=2", "--aggregator=attentive")
    assert done.returncode == 0, done.stderr
    assert "each impression once a pass" in done.stdout
    report = report_of(run)
    assert report["impressions_trained"] == report["samples"] == 2 * 3_080
    # 64 impressions a step on average.
    per_step = 3_080 / (report["steps"] / 2)
    assert 55 < per_step < 70

    model, _, _ = click_model.load_run(RunDirectory(run), grouped, "best")
    score = evaluation.scorer(model)
    measured = [
        evaluation.measure(evaluation.predict(score, samples, "test"))
        for samples in (plain, grouped)
    ]
    assert measured[0].impressions == measured[1].impressions == 600
    assert measured[0].users == measured[1].users
    for measure in ("auc", "gauc", "log_loss", "calibration"):
        one, other = (getattr(metrics, measure) for metrics in measured)
        assert one == pytest.approx(other, abs=1e-4), measure
    counts = [
        evaluation.impression_counts(samples, "train", ["item", "group"])
        for samples in (plain, grouped)
    ]
    assert counts[0] == counts[1]

    # An export takes impressions one by one, and a file of groups is taken apart for it.
    @tf.function(reduce_retracing=True)
    def export(examples):
        return model(parse_batch(examples, grouped.schema.inputs), training=False)

    scores = [
        score
        for scores, *_ in scoring.score_file(export, grouped.files("test")[0], 7)
        for score in scores[:, 0]
    ]
    records = first_records(grouped, "test", len(scores))
    assert len(records) == len(scores) > 100
    in_file = tf.data.TFRecordDataset(grouped.files("test")[0]).batch(10_000)
    batch = grouped.parse("test", next(iter(in_file)), grouped.schema.inputs)
    np.testing.assert_allclose(scores, model(batch, training=False)[:, 0], atol=1e-6)
