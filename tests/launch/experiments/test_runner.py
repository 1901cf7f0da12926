"""An experiment on small data, with real trainings in real processes."""

import dataclasses
import subprocess
import sys

import pytest

from amstf.errors import ConfigError
from launch.experiments import data, page, runner
from launch.experiments.comparisons import EXPERIMENTS
from launch.experiments.plan import AUC, IDS, IMAGES, Experiment, Variant
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
    # The same runs in another experiment are not done again, but for one that others start from.
    elsewhere = Results(tmp_path / "elsewhere" / "warm_up-small.json")
    assert runner.run_missing(plan(tmp_path / "elsewhere"), elsewhere, 1, [again]) == 1
    for name in ("none", "partial", "full"):
        assert elsewhere.of(name, [0])[0] == measures[name]
    # Another setting asks for another run.
    settings = {**SMALL.settings, IMAGES: {**SMALL.settings[IMAGES], "learning_rate": 0.02}}
    monkeypatch.setitem(data.DATA, "small", dataclasses.replace(SMALL, settings=settings))
    missing = [task for task in runner._tasks(plan(tmp_path)) if task.variant == "none"]
    assert not again.has("none", 0, missing[0].digest)


@pytest.mark.slow
def test_models_of_a_mutual_run_have_results_of_their_own(tmp_path):
    alone = {model: Variant({"model": model}, family=IDS) for model in ("lr", "din")}
    experiment = Experiment(
        title="Mutual",
        variants={
            **alone,
            "average": Variant({"epochs": 0}, members=("lr", "din")),
            "scratch": Variant({"mutual_weight": 2.0}, members=("lr", "din"), is_scratch=True),
            "both": Variant({"learning_rate": 0.002}, members=("lr", "din")),
        },
        baseline="lr",
        data=("small",),
        is_relative=True,
    )
    mutual = dataclasses.replace(plan(tmp_path), name="mutual", experiment=experiment)
    results = Results(tmp_path / "mutual-small.json")
    assert runner.run_missing(mutual, results, parallel=1) == 5
    assert runner.run_missing(mutual, Results(results.path), parallel=1) == 0
    measures = {run["variant"]: run["measures"] for run in results.runs}
    assert set(measures) == {
        *experiment.variants, *(f"{v}: {m}" for v in ("average", "scratch", "both") for m in alone)
    }  # fmt: skip
    for model in alone:
        # Nothing was trained: what they had.
        assert measures[f"average: {model}"]["auc"] == pytest.approx(measures[model]["auc"])
        assert measures[f"both: {model}"]["auc"] != measures[model]["auc"]
        assert measures[f"scratch: {model}"]["steps"] == measures[model]["steps"]
    commands = {run["variant"]: run["command"] for run in results.runs}
    assert "launch.mutual --members=lr-0-" in commands["both"]
    assert "--learning_rate=0.002" in commands["both: din"]
    assert "--scratch" in commands["scratch"] and "--mutual_weight=2.0" in commands["scratch"]
    table = page.table(
        dataclasses.replace(experiment, metrics=(AUC,)), "synthetic", range(1), results
    )
    assert "| AUC | Δ % |" in table
    assert "| both: din (to *din*) |" in table and "| average: din" not in table
    change = 100 * (measures["both: din"]["auc"] / measures["din"]["auc"] - 1)
    assert f"| {change:+.2f} |" in table


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


def test_a_variant_may_change_how_its_data_are_made():
    log = data.DATA["criteo"]
    changes = {"min_count": None, "dynamic": "true", "embedding_width": "4"}
    flags = log.flags(None, 2, "", changes)
    assert "--min_count=4" in log.flags(None, 2, "")
    assert not any(flag.startswith("--min_count") for flag in flags)
    assert [flag for flag in flags if "embedding_width" in flag] == ["--embedding_width=4"]
    assert {"--dynamic=true", "--fold=2"} <= set(flags) and flags[0] == "criteo"


@pytest.mark.slow
def test_variants_without_vocabularies_are_compared_by_seed(tmp_path):
    dynamic = dataclasses.replace(EXPERIMENTS["dynamic"], data=("small",))
    asked = dataclasses.replace(plan(tmp_path), name="dynamic", experiment=dynamic)
    results = Results(tmp_path / "dynamic-small.json")
    assert runner.run_missing(asked, results, parallel=1) == 6
    measures = {run["variant"]: run["measures"] for run in results.runs}
    assert set(measures) == set(dynamic.variants)
    assert all(0 < measured["auc"] < 1 for measured in measures.values())
    commands = {run["variant"]: run["command"] for run in results.runs}
    assert "--admission=after=4" in commands["ids, dynamic, after 4 sights"]
    datasets = {command.split()[3] for command in commands.values()}
    assert len(datasets) == 2
    table = page.table(dynamic, "synthetic", range(1), results)
    assert "| joint, dynamic (to *joint*) |" in table


@pytest.mark.parametrize("name", ["criteo", "avazu"])
def test_a_seed_is_a_fold_of_the_same_rows(name, tmp_path):
    log = data.DATA[name]
    assert log.is_per_seed
    assert len({log.directory(tmp_path, name, seed, "") for seed in range(5)}) == 5
    for seed in range(5):
        flags = set(log.flags(tmp_path, seed, ""))
        assert {"--folds=5", f"--fold={seed}", "--seed=1"} <= flags
    with pytest.raises(ConfigError, match=f"--data={name} needs --shared=DIR.*criteo/, avazu/"):
        data.prepare(name, tmp_path, None, 0, "")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_settings_for_its_data(name, tmp_path):
    experiment = EXPERIMENTS[name]
    for of_data in experiment.data:
        wanted = runner.Plan(name, experiment, of_data, range(2), tmp_path, tmp_path)
        tasks = {task.key for task in runner._tasks(wanted)}
        assert tasks == {(variant, seed) for variant in experiment.variants for seed in range(2)}


def test_every_experiment_is_on_the_help_page():
    # A process of its own: the flags of programs share one namespace.
    page = subprocess.run(
        [sys.executable, "-m", "launch.experiment", "--help"], capture_output=True, text=True
    ).stdout
    first_words = [line.split()[0] for line in page.splitlines() if line.strip()]
    for name in EXPERIMENTS:
        assert name in first_words
