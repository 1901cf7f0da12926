"""Results, table and page of an experiment, from results made by hand."""

import json

import pytest

from amstf.errors import ConfigError
from launch.experiments import page
from launch.experiments.comparisons import EXPERIMENTS
from launch.experiments.data import DATA
from launch.experiments.plan import AUC, NEW_AUC, Experiment, Variant
from launch.experiments.results import Results

EXPERIMENT = Experiment(
    title="Trial",
    variants={
        "base": Variant({}),
        "hidden": Variant({}, is_shown=False),
        "better": Variant({}),
        "unclear": Variant({}),
    },
    baseline="base",
    data=("synthetic",),
    metrics=(AUC, NEW_AUC),
)


def run(variant, seed, auc, new=None, digest="d"):
    measures = {"auc": auc, "new_auc": new}
    return {"variant": variant, "seed": seed, "digest": digest, "command": "", "measures": measures}


@pytest.fixture
def results(tmp_path):
    found = Results(tmp_path / "trial-synthetic.json")
    for seed, auc in enumerate([0.70, 0.71, 0.72]):
        found.keep(run("base", seed, auc))
        found.keep(run("better", seed, auc + 0.02 + 0.001 * seed, new=0.6))
        found.keep(run("unclear", seed, auc + 0.01 * (seed - 1)))
    return found


def test_results_are_kept_at_once_and_replaced_by_newer_ones(results):
    results.describe(machine="here")
    again = Results(results.path)
    assert again.facts == {"machine": "here"}
    assert again.of("base", range(2)) == {
        0: {"auc": 0.70, "new_auc": None},
        1: {"auc": 0.71, "new_auc": None},
    }
    assert again.has("base", 1, "d")
    assert not again.has("base", 1, "another configuration")
    again.keep(run("base", 1, 0.5, digest="another configuration"))
    assert again.of("base", [1])[1]["auc"] == 0.5
    assert len(json.loads(results.path.read_text())["runs"]) == 9
    # A line for each run, so that a change is seen as such.
    assert sum('"variant"' in line for line in results.path.read_text().splitlines()) == 9


def test_results_of_another_experiment_count_for_the_same_runs(results, tmp_path):
    here = Results(tmp_path / "here-synthetic.json")
    results.keep(run("joint", 3, 0.8, digest="the same"))
    assert here.take_from(results, {"the same": ("multi_query", 3), "none": ("sum", 0)}) == 1
    assert Results(here.path).of("multi_query", [3])[3]["auc"] == 0.8
    assert len(here.runs) == 1 and here.take_from(results, {}) == 0


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"other\.json holds no runs"):
        Results(tmp_path / "other.json")


def test_table_by_hand(results):
    results.describe(best_reachable={"test": {"auc": 0.8}})
    lines = page.table(EXPERIMENT, "synthetic", range(3), results).splitlines()
    # t(0.975, 2) = 4.303; standard deviations 0.01, and 0.001 of the differences.
    assert lines[2] == "| base | 71.00 ± 2.48 |  | - |  |"
    assert lines[3] == "| better | 73.10 ± 2.73 | **+2.10 ± 0.25** | 60.00 ± 0.00 | - |"
    assert lines[4].split(" | ")[2] == "+0.00 ± 2.48"
    assert lines[5] == "| *best reachable* | 80.00 |  | - |  |"
    assert len(lines) == 6


def test_a_section_is_replaced_and_what_people_wrote_stays(results, tmp_path):
    path = tmp_path / "trial.md"
    text = page.section("trial", EXPERIMENT, "synthetic", range(3), results, "python -m x")
    page.write_section(path, "Trial", "synthetic", text)
    assert path.read_text().startswith("# Trial\n")
    path.write_text(path.read_text() + "\nWhat it says: \\1 much.\n")
    page.write_section(path, "Trial", "synthetic", "newer \\g<0>")
    page.write_section(path, "Trial", "movielens", "other data")
    content = path.read_text()
    assert "newer \\g<0>" in content
    assert "+2.10" not in content
    assert "What it says: \\1 much." in content
    assert content.count("<!-- begin") == 2


def test_figure(results, tmp_path):
    page.draw(EXPERIMENT, "synthetic", range(3), results, tmp_path / "f.png")
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")


def test_experiments_name_data_that_there_is():
    for experiment in EXPERIMENTS.values():
        assert set(experiment.data) <= set(DATA)
