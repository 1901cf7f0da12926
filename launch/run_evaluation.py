"""Evaluates a run on a split: metrics of all impressions, and of those of new items."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from amstf.data import Samples
from launch import click_model, evaluation
from launch.json_files import write_json
from launch.run_directory import ALL, NEW, RunDirectory


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A run on a split.

    Attributes:
        report: What is in RUN/evaluation-SPLIT.json.
        predictions: What its metrics were computed from, those of the first label.
    """

    report: dict[str, Any]
    predictions: evaluation.Predictions


def evaluate(
    run: RunDirectory,
    split: str,
    *,
    dataset: str | None = None,
    checkpoint: str = "best",
    new_item_impressions: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Evaluates a run and writes RUN/evaluation-SPLIT.json.

    Args:
        run: The run.
        split: The split.
        dataset: Data set; by default the one the run was trained on.
        checkpoint: "best" by validation AUC, or "last".
        new_item_impressions: An item counts as new if training showed it at most so often.
        progress: Called with the samples of each batch that is done, and of the split.

    Raises:
        AmstfError: On a run or data that cannot be used; see `click_model.load_run`.
    """
    config = run.read_config()
    samples = Samples.open(dataset or config.dataset)
    total = samples.num_impressions(split)
    model, _, _ = click_model.load_run(run, samples, checkpoint)
    of_label = evaluation.predict_labels(
        evaluation.scorer(model), samples, split, progress=lambda done: progress(done, total)
    )
    first, *others = of_label
    often: list[Any] = []
    if of_label[first].items is not None:
        counts = training_impressions(config.dataset)["items"]
        often = [item for item, n in counts.items() if n > new_item_impressions]

    def measure(label: str) -> dict[str, dict[str, Any]]:
        predictions = of_label[label]
        parts = {ALL: evaluation.measure(predictions)}
        if predictions.items is not None:
            parts[NEW] = evaluation.measure(predictions, ~np.isin(predictions.items, often))
        return {name: metrics.to_json() for name, metrics in parts.items()}

    report = {
        "run": str(run.path),
        "model": config.model,
        "images": config.images,
        "label": first,
        "dataset": str(samples.directory),
        "split": split,
        "checkpoint": checkpoint,
        "new_item_impressions": new_item_impressions,
        "metrics": measure(first),
        "other_labels": {label: measure(label) for label in others},
        "best_reachable": samples.manifest.info.get("best_reachable", {}),
    }
    write_json(run.path / f"evaluation-{split}.json", report)
    return Evaluation(report, of_label[first])


@functools.cache
def training_impressions(dataset: str) -> dict[str, evaluation.Counts]:
    """Counts the impressions of "items" and users ("groups") in training, where there are such.

    Reads the training split once, however many runs were trained on it.
    """
    samples = Samples.open(dataset)
    schema = samples.schema
    fields = {"items": schema.item, "groups": schema.group and schema.group.name}
    fields = {name: field for name, field in fields.items() if field}
    counts = evaluation.impression_counts(samples, "train", list(fields.values()))
    return dict(zip(fields, counts, strict=True))
