"""The table and the figure of an experiment, made of the kept results alone."""

from __future__ import annotations

import math
import pathlib
import re
from typing import Any

from amstf import files
from amstf.atomic_file import write_atomically
from launch.curves import plt
from launch.experiments.data import DATA
from launch.experiments.plan import NEW_AUC, Experiment, Metric, Row
from launch.experiments.results import Results
from launch.experiments.statistics import Estimate, estimate, paired_difference

POINTS = 100
"""Metrics are shown in points of 0.01."""

_COLOURS = {True: "tab:green", False: "tab:red", None: "tab:gray"}
_INCHES_PER_LETTER = 0.075  # Of the rows' names.


def metrics_of(experiment: Experiment, data: str) -> tuple[Metric, ...]:
    """Returns what is shown of an experiment on a data set."""
    return experiment.metrics or DATA[data].metrics


def table(experiment: Experiment, data: str, seeds: range, results: Results) -> str:
    """Returns a table in Markdown: each variant, and its paired difference to the baseline."""
    metrics = metrics_of(experiment, data)
    head = ["points of 0.01"]
    for metric in metrics:
        head += [metric.title, "Δ %" if experiment.is_relative else "Δ"]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for row in experiment.rows:
        cells = [_title(row, experiment)]
        for metric in metrics:
            values = _values(results, row.name, seeds, metric)
            cells.append(_level(estimate(list(values.values()))))
            is_base = row.name == row.baseline
            difference = _compared(experiment, row, seeds, results, metric)
            cells.append("" if is_base else _difference(difference))
        lines.append("| " + " | ".join(cells) + " |")
    best = results.facts.get("best_reachable") or {}
    if best:
        cells = ["*best reachable*"]
        for metric in metrics:
            part, key = ("test, new items", "auc") if metric == NEW_AUC else ("test", metric.key)
            value = best.get(part, {}).get(key)
            cells += ["-" if value is None else f"{POINTS * value:.2f}", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(
    experiment: Experiment, data: str, seeds: range, results: Results, path: pathlib.Path
) -> None:
    """Draws the paired differences to the baseline with their intervals, a panel per metric."""
    metrics = metrics_of(experiment, data)
    rows = [row for row in experiment.rows if row.name != row.baseline]
    shown = [_title(row, experiment).replace("*", "") for row in rows]
    names = _INCHES_PER_LETTER * max(map(len, shown))
    figure, axes = plt.subplots(
        1,
        len(metrics),
        figsize=(3.0 * len(metrics) + names, 1.6 + 0.32 * len(shown)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, metric in zip(axes[0], metrics, strict=True):
        base = _values(results, experiment.baseline, seeds, metric)
        for place, row in enumerate(rows):
            difference = _compared(experiment, row, seeds, results, metric)
            sign = True if difference.is_above_zero else None
            sign = False if difference.is_below_zero else sign
            margin = 0.0 if math.isnan(difference.margin) else POINTS * difference.margin
            axis.errorbar(
                POINTS * difference.mean,
                place,
                xerr=margin,
                fmt="o",
                capsize=3,
                color=_COLOURS[sign],
            )
        axis.axvline(0, color="black", linewidth=0.8)
        level = estimate(list(base.values()))
        axis.set_title(f"{metric.title}\n{experiment.baseline}: {_level(level)}", fontsize=9)
        unit = "% of what it is compared with" if experiment.is_relative else "points of 0.01"
        axis.set_xlabel(unit, fontsize=8)
        axis.grid(axis="x", alpha=0.3)
    axes[0][0].set_yticks(range(len(shown)), shown)
    axes[0][0].set_ylim(len(shown) - 0.5, -0.5)
    title = f"{experiment.title}\n{data}, {len(seeds)} seeds, 95 % intervals"
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def section(
    name: str, experiment: Experiment, data: str, seeds: range, results: Results, command: str
) -> str:
    """Returns what the page says of one data set."""
    return "\n".join(
        [
            f"## {data}: {DATA[data].title}",
            "",
            f"    {command}",
            "",
            f"{len(seeds)} seeds ({seeds.start} to {seeds.stop - 1}); ± is half of the 95 % "
            f"interval over seeds (Student's t), Δ the difference to *{experiment.baseline}* (or "
            "to what the row names)"
            + (", in % of that," if experiment.is_relative else ",")
            + " paired by seed, bold where the interval leaves out 0. Every run with its command: "
            f"[{results.path.name}]({results.path.name}).",
            "",
            table(experiment, data, seeds, results),
            "",
            f"![differences]({name}-{data}.png)",
        ]
    )


def write_section(page: pathlib.Path, title: str, data: str, text: str) -> None:
    """Replaces the section of a data set in a page, or adds it; what people wrote stays."""
    begin, end = f"<!-- begin {data} -->", f"<!-- end {data} -->"
    block = f"{begin}\n{text}\n{end}"
    before = files.read_text(page) if page.exists() else f"# {title}\n"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if pattern.search(before):
        after = pattern.sub(lambda _: block, before)
    else:
        after = f"{before.rstrip()}\n\n{block}\n"
    write_atomically(page, after)


def _values(results: Results, variant: str, seeds: range, metric: Metric) -> dict[int, float]:
    """Returns a metric by seed, of the runs in which it is defined."""
    measures: dict[int, dict[str, Any]] = results.of(variant, seeds)
    found = {seed: measured.get(metric.key) for seed, measured in measures.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _title(row: Row, experiment: Experiment) -> str:
    """Names a row, and what it is compared with if that is not the baseline of all."""
    is_usual = row.baseline in (experiment.baseline, row.name)
    return row.name if is_usual else f"{row.name} (to *{row.baseline}*)"


def _compared(
    experiment: Experiment, row: Row, seeds: range, results: Results, metric: Metric
) -> Estimate:
    values = _values(results, row.name, seeds, metric)
    base = _values(results, row.baseline, seeds, metric)
    if experiment.is_relative:
        return estimate([values[seed] / base[seed] - 1 for seed in values if seed in base])
    return paired_difference(values, base)


def _level(value: Estimate) -> str:
    if not value.count:
        return "-"
    margin = "" if math.isnan(value.margin) else f" ± {POINTS * value.margin:.2f}"
    return f"{POINTS * value.mean:.2f}{margin}"


def _difference(value: Estimate) -> str:
    if not value.count:
        return "-"
    margin = "" if math.isnan(value.margin) else f" ± {POINTS * value.margin:.2f}"
    text = f"{POINTS * value.mean:+.2f}{margin}"
    return f"**{text}**" if value.is_above_zero or value.is_below_zero else text
