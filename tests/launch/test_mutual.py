"""launch.mutual: here and on a cluster, its members as runs, what it refuses."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from amstf.data import Samples, parse_batch
from amstf.export import export
from launch import run_evaluation
from launch.click_model import load_run
from launch.export_check import first_records
from launch.mutual_training import training_of
from launch.run_directory import FULL_START, MUTUAL, RunConfig, RunDirectory
from launch.scoring import load_scorer
from tests.launch.training_program import report_of, run_program

STEPS = 25  # Of a pass.


def train(path, config):
    run = RunDirectory(path)
    return run, training_of(run, config).execute()


@pytest.fixture(scope="module")
def alone(small_dataset, tmp_path_factory):
    """Runs of two models, one of which sees images."""
    directory, runs = tmp_path_factory.mktemp("alone"), {}
    for model in ("din", "dicm"):
        config = RunConfig(
            str(small_dataset), model, hidden=(8,), tower=(4,), batch_size=128, epochs=1, id_l2=0.1
        )
        runs[model], _ = train(directory / model, config)
    return runs


def configuration(runs, **changes):
    members = {
        name: dataclasses.replace(
            run.read_config(), warm_start=str(run.path), warm_start_mode=FULL_START
        )
        for name, run in runs.items()
    }
    dataset = next(iter(members.values())).dataset
    whole = RunConfig(dataset, MUTUAL, members=members, batch_size=128, epochs=1)
    return dataclasses.replace(whole, **changes)


def last_weights(run):
    return load_run(run, which="last")[0].get_weights()


@pytest.mark.slow
def test_members_are_runs_and_the_whole_is_their_mean(alone, tmp_path):
    run, report = train(tmp_path / "whole", configuration(alone))
    assert (report["steps"], report["impressions_trained"]) == (STEPS, 3080)
    assert report["config"]["members"]["din"]["epochs"] == 1
    members = {name: run.member(name) for name in alone}
    for name, member in members.items():
        told = report_of(member.path)
        assert told["trained_with"] == [other for other in alone if other != name]
        assert told["warm_start"]["loaded"] > 1000
        assert told["best_validation"] == report["members"][name]
        evaluated = run_evaluation.evaluate(member, "validation")
        # Keeps nine digits.
        best = told["best_validation"]["validation_auc"]
        np.testing.assert_allclose(evaluated.report["metrics"]["all"]["auc"], best, atol=1e-8)
        before = last_weights(alone[name])
        assert any(np.any(a != b) for a, b in zip(before, last_weights(member), strict=True))
    # What is last is of one step in all of them.
    samples = Samples.open(report["config"]["dataset"])
    examples = tf.constant(first_records(samples, "test", 300))
    inputs = parse_batch(examples, samples.schema.inputs)
    each = [load_run(member, which="last")[0](inputs).numpy() for member in members.values()]
    model, _, config = load_run(run, which="last")
    assert config.images == "both"
    np.testing.assert_allclose(model(inputs), np.mean(each, axis=0), atol=1e-6)

    export(model, samples.schema, tmp_path / "model")
    score, columns = load_scorer(tmp_path / "model")
    assert columns == ["click_probability"]
    np.testing.assert_allclose(score(examples), model(inputs), atol=1e-5)


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(alone, tmp_path):
    changes = {"mutual_warm_up": 30, "agreement": "kl"}
    straight, _ = train(tmp_path / "straight", configuration(alone, epochs=2, **changes))
    run, _ = train(tmp_path / "parts", configuration(alone, **changes))
    _, report = train(run.path, configuration(alone, epochs=2, **changes))
    assert report["steps"] == 2 * STEPS
    for name in alone:
        steps = [line.split(",")[0] for line in run.member(name).history.read_text().split()[1:]]
        assert steps == ["7", "14", "21", "25", "28", "35", "42", "49", "50"]
    for one, other in zip(last_weights(straight), last_weights(run), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.slow
def test_a_cluster_trains_what_one_process_does(alone, tmp_path):
    local, _ = train(tmp_path / "local", configuration(alone, mutual_weight=2.0))
    members = ",".join(str(run.path) for run in alone.values())
    done = run_program(
        "mutual", f"--members={members}", f"--out={tmp_path / 'cluster'}", "--cluster=1x2",
        "--mutual_weight=2", "--epochs=1", "--min_shard_bytes=1024",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "tables split over the servers" in done.stdout
    assert "dicm: best validation: AUC" in done.stdout
    cluster = RunDirectory(tmp_path / "cluster")
    # One worker: its steps come one after another.
    for name in alone:
        pairs = zip(
            last_weights(local.member(name)), last_weights(cluster.member(name)), strict=True
        )
        for here, there in pairs:
            np.testing.assert_allclose(here, there, atol=1e-5)


@pytest.mark.slow
def test_no_pass_is_the_ensemble_of_the_runs_as_they_are(alone, tmp_path):
    _, report = train(tmp_path / "ensemble", configuration(alone, epochs=0))
    assert report["steps"] == 0
    for name, member in alone.items():
        before = report_of(member.path)["best_validation"]["validation_auc"]
        assert report["members"][name]["validation_auc"] == pytest.approx(before, abs=1e-8)


def test_what_is_refused_in_one_line(small_dataset, tmp_path):
    def line(*flags):
        done = run_program("mutual", f"--out={tmp_path / 'out'}", *flags)
        assert (done.returncode, done.stdout) == (2, ""), done
        (first, *more) = done.stderr.splitlines()
        assert not more
        return first

    run = tmp_path / "run"
    run.mkdir()
    config = RunConfig(str(small_dataset), "lr")
    (run / "config.json").write_text(config.to_json())
    whole = tmp_path / "whole"
    whole.mkdir()
    content = json.loads(RunConfig(str(small_dataset), MUTUAL, members={"lr": config}).to_json())
    (whole / "config.json").write_text(json.dumps(content))
    assert "give --members, saved runs, or --models" in line()
    assert "is not a run; python -m launch.train makes one" in line("--members=nowhere")
    assert "--members names" in line(f"--members={run},{run}")
    assert f"name some of its models: {whole}/members/lr" in line(f"--members={whole}")
    assert "--hidden: what a member is comes from its own run" in line(
        f"--members={run}", "--hidden=8"
    )
    assert "--models needs --dataset" in line("--models=lr")
    assert "model is 'cnn'; use lr or" in line("--models=cnn", f"--dataset={small_dataset}")
    assert "interaction is 'products=all'; pnn takes products=inner|outer|both" in line(
        "--models=dcn,pnn", f"--dataset={small_dataset}", "--interaction=layers=2,products=all"
    )
