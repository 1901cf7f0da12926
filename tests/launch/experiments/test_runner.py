"""An experiment on small data, with real trainings in real processes."""

import dataclasses
import subprocess
import sys

import pytest

from amstf.errors import ConfigError
from launch.experiments import data, runner
from launch.experiments.comparisons import EXPERIMENTS
from launch.experiments.plan import AUC, IDS, IMAGES
from launch.experiments.results import Results

SMALL = data.Data(
    title="small",
    prepare=(
        "synthetic", "--users=40", "--items=60", "--impressions=3000", "--image_width=8",
        "--behaviours=4",
    ),
    metrics=(AUC,),
    settings={
        family: {"epochs": 1, "batch_size": 128, "learning_rate": 0.01, "tower": (4,)}
        for family in (IDS, IMAGES)
    },
    segment_steps=5,
    has_halves=True,
)  # fmt: skip


def plan(runs, **changes):
    return runner.Plan(
        name="warm_up",
        experiment=EXPERIMENTS["warm_up"],
        data="small",
        seeds=range(1),
        runs=runs,
        shared=None,
        **changes,
    )


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(data.DATA, "small", SMALL)


@pytest.mark.slow
def test_what_has_a_result_is_not_done_again(tmp_path, monkeypatch):
    results = Results(tmp_path / "warm_up-small.json")
    # Four trainings, three on the later half, of which two begin with the first one's weights.
    assert runner.run_missing(plan(tmp_path), results, parallel=1) == 4
    again = Results(results.path)
    assert runner.run_missing(plan(tmp_path), again, parallel=1) == 0
    measures = {name: again.of(name, [0])[0] for name in EXPERIMENTS["warm_up"].variants}
    for measured in measures.values():
        assert measured["steps"] == 10  # 1,155 samples, a half of 2,310.
        assert 0.3 < measured["auc"] < 0.9
        assert 0.3 < measured["user_auc"] < 0.9
    assert len({measured["auc"] for measured in measures.values()}) == 4
    commands = {run["variant"]: run["command"] for run in again.runs}
    assert "--warm_start=earlier_half-0" in commands["partial"]
    assert "--warm_start_mode=full" in commands["full"]
    # Another setting asks for another run.
    settings = {**SMALL.settings, IMAGES: {**SMALL.settings[IMAGES], "learning_rate": 0.02}}
    monkeypatch.setitem(data.DATA, "small", dataclasses.replace(SMALL, settings=settings))
    missing = [task for task in runner._tasks(plan(tmp_path)) if task.variant == "none"]
    assert not again.has("none", 0, missing[0].digest)


def test_data_that_may_not_be_shipped_is_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="--data=movielens needs --shared=DIR"):
        data.prepare("movielens", tmp_path, None, 0, "")


def test_data_without_halves_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(data.DATA, "small", dataclasses.replace(SMALL, has_halves=False))
    with pytest.raises(ConfigError, match="--data=small has no halves in time, which warm_up need"):
        runner.run_missing(plan(tmp_path), Results(tmp_path / "r.json"), 1)


def test_other_flags_are_other_data(tmp_path):
    other = dataclasses.replace(SMALL, prepare=(*SMALL.prepare, "--interests=2"))
    places = {
        d.directory(tmp_path, "small", 0, part) for d in (SMALL, other) for part in ("", "first")
    }
    assert len(places) == 4
    assert SMALL.directory(tmp_path, "small", 0, "") == SMALL.directory(tmp_path, "small", 1, "")


def test_every_experiment_is_on_the_help_page():
    # A process of its own: the flags of programs share one namespace.
    page = subprocess.run(
        [sys.executable, "-m", "launch.experiment", "--help"], capture_output=True, text=True
    ).stdout
    first_words = [line.split()[0] for line in page.splitlines() if line.strip()]
    for name in EXPERIMENTS:
        assert name in first_words
