"""RUN/report.html: figures as SVG inside the page, the rest by launch/templates/report.html."""

from __future__ import annotations

import base64
import io
import json
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import jinja2
import numpy as np
from matplotlib import ticker

from amstf.atomic_file import write_atomically
from launch import breakdown, curves
from launch.breakdown import Bucket, ReliabilityBin
from launch.curves import plt
from launch.json_files import read_json
from launch.run_directory import ALL, NEW, RunDirectory
from launch.run_evaluation import Evaluation, training_impressions
from launch.step_logger import History

_BLUE, _ORANGE, _GREEN = "tab:blue", "tab:orange", "tab:green"
_GAIN = "best reachable"
_SECONDS = {
    "waiting for other requests": "wait_nanoseconds",
    "image lookup": "lookup_nanoseconds",
    "E forward": "leader_forward_nanoseconds",
    "waiting for gradients": "leader_backward_wait_nanoseconds",
    "E backward": "leader_backward_nanoseconds",
}
"""Time of a server by its counter; "E forward" is from the close of a round until it is answered,
lookup included, and is shown without it."""


def write(run: RunDirectory, evaluation: Evaluation) -> None:
    """Writes the page of a run, finished or not, with one evaluation of it."""
    config = run.read_config()
    report = read_json(run.report, "a run") if run.report.exists() else {}
    history = History(run.history)
    predictions = evaluation.predictions
    bins = breakdown.reliability(predictions)
    known = training_impressions(config.dataset)
    buckets = {
        title: breakdown.by_training_impressions(predictions, keys, known[name])
        for title, name, keys in (
            ("user", "groups", predictions.groups),
            ("item", "items", predictions.items),
        )
        if keys is not None
    }
    servers = _servers(report.get("image_servers", {}))
    workers = report.get("workers", [])
    workers = workers if len(workers) > 1 else []
    page = _environment().get_template("report.html").render(
        name=os.path.basename(os.path.normpath(run.path)),
        path=os.path.abspath(run.path),
        config=config,
        settings=_flat(report.get("config") or _plain(config)),
        report=report,
        history=history.validations(),
        last_row=history.rows[-1] if history.rows else None,
        evaluation=evaluation.report,
        overall=evaluation.report["metrics"][ALL],
        rows=_metric_rows(evaluation.report),
        buckets=buckets,
        bins=bins,
        calibration_error=breakdown.calibration_error(bins),
        workers=workers,
        servers=servers,
        dynamic_tables=report.get("dynamic_tables", {}),
        rounds=report.get("image_servers", {}).get("rounds"),
        figures={
            "curves": _svg(curves.figure(history)),
            "buckets": {title: _svg(_bucket_figure(title, b)) for title, b in buckets.items()},
            "reliability": _svg(_reliability_figure(bins, predictions.scores)),
            "workers": _svg(_worker_figure(workers)) if workers else None,
            "servers": _svg(_server_figure(servers)) if servers else None,
        },
        made=time.strftime("%Y-%m-%d %H:%M %Z"),
    )  # fmt: skip
    write_atomically(run.page, page)


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("launch"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=_count, decimal=_decimal, amount=_amount, duration=_duration)
    return environment


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"


def _decimal(value: float | None, digits: int = 4) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def _amount(value: float | None) -> str:
    """Bytes for people."""
    if value is None:
        return "-"
    units = ("B", "kB", "MB", "GB", "TB")
    power = min(int(math.log(max(value, 1), 1000)), len(units) - 1)
    return f"{value / 1000**power:,.{1 if power else 0}f} {units[power]}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {rest} s"


def _plain(config: Any) -> dict[str, Any]:
    return json.loads(config.to_json())


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = ", ".join(map(str, value)) if isinstance(value, list) else value
    return flat


def _metric_rows(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    rows: list[tuple[str, Mapping[str, Any]]] = []
    for part in (ALL, NEW):
        if part in report["metrics"]:
            rows.append((part, report["metrics"][part]))
            split = report["split"]
            best = report["best_reachable"].get(split if part == ALL else f"{split}, {part}")
            if best:
                rows.append((f"{part}: {_GAIN}", best))
    return rows


def _servers(counted: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """The counters of each image server and their sum, with times in seconds."""
    servers = []
    for name, counters in counted.items():
        if name == "rounds":
            continue
        seconds = {what: counters.get(key, 0) / 1e9 for what, key in _SECONDS.items()}
        seconds["E forward"] = max(0.0, seconds["E forward"] - seconds["image lookup"])
        servers.append({"name": name, **counters, "seconds": seconds})
    return servers


def _svg(figure: Any) -> str:
    """The figure as the address of an image, and closes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _bucket_figure(title: str, buckets: list[Bucket]) -> Any:
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    places = range(len(buckets))
    for name, style, color in (("auc", "o-", _ORANGE), ("gauc", "s--", _GREEN)):
        values = [getattr(bucket.metrics, name) for bucket in buckets]
        axes.plot(places, values, style, color=color, label=name.upper())
    axes.axhline(0.5, color="gray", linewidth=0.8, linestyle=":")
    axes.set_xticks(list(places), [bucket.label for bucket in buckets])
    axes.set(xlabel=f"impressions of the {title} in training", ylabel="AUC, GAUC")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _reliability_figure(bins: list[ReliabilityBin], scores: Any) -> Any:
    figure, (axes, counts) = plt.subplots(
        2, 1, figsize=(6, 5), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    predicted = [part.predicted for part in bins]
    errors = [[p.observed - p.low for p in bins], [p.high - p.observed for p in bins]]
    end = max([part.high for part in bins] + predicted, default=1.0)
    axes.plot([0, end], [0, end], color="gray", linewidth=0.8, linestyle=":", label="right")
    axes.errorbar(
        predicted,
        [part.observed for part in bins],
        yerr=errors,
        fmt="o-",
        capsize=3,
        color=_BLUE,
        label="observed, 95 %",
    )
    axes.set(ylabel="click rate")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left")
    counts.hist(scores, bins=50, color=_BLUE, alpha=0.6)
    counts.set(xlabel="predicted click probability", ylabel="impressions")
    return figure


def _worker_figure(workers: list[dict[str, Any]]) -> Any:
    rates = [worker["samples_per_second"] or 0.0 for worker in workers]
    colors = [_ORANGE if worker["straggling_seconds"] else _BLUE for worker in workers]
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.bar(range(len(rates)), rates, width=min(0.7, 0.15 * len(rates)), color=colors)
    axes.axhline(float(np.median(rates)), color="gray", linewidth=0.8, linestyle=":")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.set(xlabel="worker", ylabel="samples/s")
    return figure


def _server_figure(servers: list[dict[str, Any]]) -> Any:
    shown = [server for server in servers if server["name"] != "sum"]
    height = 1.2 + 0.4 * len(shown)
    figure, axes = plt.subplots(figsize=(10, height), layout="constrained")
    left = [0.0] * len(shown)
    names = [server["name"] for server in shown]
    for what in _SECONDS:
        widths = [server["seconds"][what] for server in shown]
        axes.barh(names, widths, left=left, label=what, height=0.6)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.invert_yaxis()
    axes.set(xlabel="seconds, summed over requests")
    axes.legend(
        ncols=len(_SECONDS), loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize="small"
    )
    return figure
