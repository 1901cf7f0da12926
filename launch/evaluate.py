"""Evaluates one run or several, side by side, on a split they were not trained on.

    python -m launch.evaluate --run=RUN
    python -m launch.evaluate --run=RUN_A,RUN_B --split=test

Prints AUC, GAUC (exact; users with one class left out and counted), log loss and calibration, over
all impressions and over those of items that training never showed ("new items"). Writes the same,
in full, to RUN/evaluation-SPLIT.json. Of synthetic data the best reachable values are shown too. A
model of several labels has a table for each.
"""

import os
import sys
from typing import TYPE_CHECKING, Any

from absl import flags

from amstf.errors import ConfigError
from launch import program
from launch.run_directory import ALL, NEW, RunDirectory

if TYPE_CHECKING:
    from launch import run_evaluation

FLAGS = flags.FLAGS

flags.DEFINE_list("run", None, "Run directories, separated by commas.", required=True)
flags.DEFINE_string("dataset", None, "Data set; by default the one the run was trained on.")
flags.DEFINE_string("split", "test", "Split to evaluate on.")
flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "best: by validation AUC; last: the newest."
)
flags.DEFINE_integer(
    "new_item_impressions",
    0,
    "An item counts as new if training showed it at most so often.",
    lower_bound=0,
)

_COLUMNS = ("AUC", "GAUC", "log loss", "calibration")


def evaluate(run: RunDirectory) -> "run_evaluation.Evaluation":
    """Evaluates a run as the flags say and writes RUN/evaluation-SPLIT.json."""
    import tqdm

    from launch import run_evaluation

    with tqdm.tqdm(
        desc=str(run.path), unit=" samples", disable=not sys.stderr.isatty(), leave=False
    ) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        return run_evaluation.evaluate(
            run,
            FLAGS.split,
            dataset=FLAGS.dataset,
            checkpoint=FLAGS.checkpoint,
            new_item_impressions=FLAGS.new_item_impressions,
            progress=progress,
        )


def table(reports: list[dict[str, Any]]) -> str:
    """Returns the metrics of several runs side by side, for people."""
    names = [os.path.basename(os.path.normpath(report["run"])) for report in reports]
    width = max(len(name) for name in [*names, "best reachable"]) + 2
    split, lines = reports[0]["split"], []
    for label in dict.fromkeys(label for report in reports for label in _metrics(report)):
        # A run that predicts fewer labels is missing in the tables of the others.
        rows = [(name, r) for name, r in zip(names, reports, strict=True) if label in _metrics(r)]
        for part in (ALL, NEW):
            if part not in _metrics(rows[0][1])[label]:
                continue
            lines += _head(split, part, _metrics(rows[0][1])[label][part], label, width)
            for name, report in rows:
                metrics = _metrics(report)[label][part]
                values = [metrics[key] for key in ("auc", "gauc", "log_loss", "calibration")]
                lines.append(f"{name:<{width}}" + "".join(map(_cell, values)))
            best = reports[0]["best_reachable"].get(split if part == ALL else f"{split}, {part}")
            if best and not label:
                lines.append(
                    f"{'best reachable':<{width}}"
                    + _cell(best.get("auc"))
                    + _cell(best.get("gauc"))
                )
            lines.append("")
    return "\n".join(lines)


def _metrics(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns label -> part -> metrics; the first label, which all runs have, is ""."""
    return {"": report["metrics"], **report["other_labels"]}


def _head(split: str, part: str, first: dict[str, Any], label: str, width: int) -> list[str]:
    title = ", ".join(filter(None, (split, label, part)))
    clicks = f"with {label}" if label else "clicks"
    users = (
        f"GAUC over {first['users']:,} users, {first['skipped_users']:,} with one class left out"
    )
    if not first["users"] + first["skipped_users"]:
        users = "no users, so no GAUC"
    return [
        f"{title}: {first['impressions']:,} impressions, {first['clicks']:,} {clicks}; {users}",
        " " * width + "".join(f"{column:>13}" for column in _COLUMNS),
    ]


def _cell(value: float | None) -> str:
    return f"{'-' if value is None else f'{value:.4f}':>13}"


def runs_of_flags() -> list[RunDirectory]:
    """Returns the runs that --run names; raises ConfigError unless each of them is one."""
    runs = [RunDirectory(path) for path in FLAGS.run if path]
    if not runs:
        raise ConfigError("--run is empty; name a run directory of launch.train")
    for run in runs:
        run.read_config()
    return runs


def main(arguments: list[str]) -> None:
    """Evaluates the runs and prints one table."""
    del arguments
    runs = runs_of_flags()
    reports = [evaluate(run).report for run in runs]
    print(table(reports))
    print("in full: " + ", ".join(f"{run.path}/evaluation-{FLAGS.split}.json" for run in runs))


if __name__ == "__main__":
    program.run(main)
