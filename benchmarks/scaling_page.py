"""The tables, the page and the picture of `benchmarks.scaling`."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

from benchmarks import harness
from benchmarks.click_shape import ClickShape
from benchmarks.scaling_model import PAPER_HOURS, Parts, Round, paper_rounds

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PAGES = pathlib.Path(__file__).resolve().parent.parent / "docs" / "results"
_PIECES = ("servers", "workers", "images and ids", "E between servers", "latency")


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run of the benchmark found.

    Attributes:
        parts: Fitted costs.
        measured: Rounds that they were fitted to.
        link: See `benchmarks.scaling.measure_link`.
        predicted: Setting -> machines -> seconds by piece, "total", "hours".
        shape: Of the model that was measured.
        cores: Of this machine.
    """

    parts: Parts
    measured: Sequence[Round]
    link: Mapping[str, float]
    predicted: Mapping[str, Mapping[int, Mapping[str, float]]]
    shape: ClickShape
    cores: int


def tables(result: Result) -> list[str]:
    """For the terminal: what was measured and what the model says of it; parts; predictions."""
    return [harness.table(header, rows) for header, rows in _tables(result)]


def _tables(result: Result) -> list[tuple[list[str], list[list[Any]]]]:
    rows = []
    for one in result.measured:
        costs = result.parts.costs(one)
        rows.append(
            [one.workers, one.servers, one.samples, round(one.asked), round(one.embedded),
             round(one.workers * one.samples / one.clock_s), one.clock_s, one.server_s,
             costs["server"], one.worker_s, costs["worker"], one.bytes / 1e6,
             costs["bytes"] / 1e6, one.chief_s]
        )  # fmt: skip
    header = ["W", "S", "B", "asked", "embedded", "samples/s", "clock s", "servers s", "model",
              "workers s", "model", "MB", "model", "chief s"]  # fmt: skip
    predicted = [
        [name, machines, *(seconds[piece] for piece in _PIECES), seconds["total"],
         round(seconds["hours"], 1), PAPER_HOURS[machines]]
        for name, by_machines in result.predicted.items()
        for machines, seconds in by_machines.items()
    ]  # fmt: skip
    return [
        (header, rows),
        (["part", "cost", "unit"], _part_rows(result)),
        (["setting", "machines", *_PIECES, "round s", "hours", "paper, hours"], predicted),
    ]


def _part_rows(result: Result) -> list[list[str]]:
    parts = result.parts
    core = [
        ("server, an image through lookup and E", 1e6 * parts.server["image"], "core µs"),
        ("server, an image asked for by a worker", 1e6 * parts.server["row"], "core µs"),
        ("server, a request", 1e3 * parts.server["request"], "core ms"),
        ("servers, a round", 1e3 * parts.server["round"], "core ms"),
        ("worker, a sample", 1e6 * parts.worker["sample"], "core µs"),
        ("worker, a request", 1e3 * parts.worker["request"], "core ms"),
        ("worker, a step", 1e3 * parts.worker["step"], "core ms"),
        ("chief, a step of a worker", 1e3 * parts.chief_s, "core ms"),
        ("wire, an image asked for", parts.bytes["row"], "bytes"),
        ("wire, a sample", parts.bytes["sample"], "bytes"),
        ("wire, an exchange of E, one server", 1e-6 * parts.bytes["tower"], "MB"),
        ("wire, a step of a worker", 1e-6 * parts.bytes["step"], "MB"),
        ("loopback", 1e-9 * result.link["bytes_a_second"], "GB/s"),
        ("loopback, processor time of both ends", 1e9 * result.link["core_s_a_byte"], "core s/GB"),
        ("loopback, latency of a read", 1e3 * result.link["latency_s"], "ms"),
    ]
    return [[name, f"{cost:.3g}", unit] for name, cost, unit in core]


def write(result: Result, machine: Mapping[str, Any], *, quick: bool) -> None:
    """Writes docs/results/scaling.md and scaling.png.

    Args:
        result: The result.
        machine: From `harness.machine`.
        quick: Whether it is only the result of a small run, and the page says so.
    """
    PAGES.mkdir(parents=True, exist_ok=True)
    draw(result, PAGES / "scaling.png")
    (PAGES / "scaling.md").write_text(page(result, machine, quick=quick))
    print(f"written: {PAGES / 'scaling.md'}, scaling.png")


def _markdown(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [
        [f"{value:.3f}" if isinstance(value, float) else f"{value}" for value in row]
        for row in rows
    ]
    lines = [list(header), ["---"] * len(header), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(result: Result, machine: Mapping[str, Any], *, quick: bool) -> str:
    """The text of the page, with the numbers of this run in its sentences."""
    paper = paper_rounds()
    measured, parts, predicted = (_markdown(header, rows) for header, rows in _tables(result))
    plain = result.predicted["10 Gbit/s"]
    few, many = min(plain), max(plain)
    middle, there = plain[20], paper["seconds"][20]
    busiest = max(_PIECES, key=lambda piece: middle[piece])
    growth = 1e3 * (plain[many]["total"] - plain[few]["total"]) / (many - few)
    tower = 8e-6 * result.shape.tower_weights
    efficiency = ", ".join(
        f"{name} {100 * by[few]['hours'] / by[many]['hours'] * few / many:.0f} %"
        for name, by in {**result.predicted, "paper": _paper_hours()}.items()
    )
    chief, cores = result.parts.chief_s, result.cores
    warning = "**A quick run at small sizes: not for use.**\n\n" if quick else ""
    return f"""# Scaling: from {cores} cores to the paper's 20 machines

{warning}`python -m benchmarks.scaling --keep` writes this page.
{machine["processor"]}, {cores} cores, {machine["time"][:10]}, commit {machine["commit"][:12]}.

![Measured, predicted, and the paper](scaling.png)

## What is extrapolated, and what is not

All processes of the clusters below share {cores} cores: more of them cannot be faster on the clock,
and samples/s here says nothing of a larger cluster. What carries over is what a thing *costs*: core
seconds for an image in E, for a sample in a worker, for a request; and bytes. Those are fitted to
the {len(result.measured)} clusters measured here, in synchronous rounds (Algorithm 1). A machine of
the paper's cluster is taken to be one of ours: {cores} cores that are worker and server in turn.
Nothing was fitted to the paper.

{parts}

(0: the fit found no such cost apart from the others.)

## The paper's cluster

3,000 samples and 16,000 images a machine and round (320,000 on 20 machines), F = 4,096. The paper
does not name its link; 10 Gbit/s is assumed. Hours are for 3.9 G samples, once.

{predicted}

Efficiency, {many} machines against {few}: {efficiency}.

## Where it differs from the paper, and why

- **Level.** A round on 20 machines takes {middle["total"]:.2f} s here and {there:.2f} s there. Ours
  has {cores} cores for what a GPU does there; the largest part is *{busiest}*
  ({middle[busiest]:.2f} s). Theirs has a larger click model (27 fields, attention). So the
  levels agree or disagree by chance; the shape of the curve is what can be compared.
- **Shape.** Table 1 is a straight line: if a machine takes 3,000 samples a round whatever the
  number of machines, its hours are rounds of {paper["fixed"]:.2f} s + {1e3 * paper["each"]:.1f} ms
  for each machine, within {100 * paper["error"]:.1f} %. What grows with the number of machines
  passes through one point, or is paid once for each of the others. Our model grows by
  {growth:.1f} ms for each machine. Of these {tower / 1.25:.1f} ms are the server that holds E's
  weights: {tower:.1f} MB (E and its gradient) for every other server in every round, at
  10 Gbit/s. The rest is the fixed cost of a request: every worker asks every server.
  That the paper's system had the same costs is a guess: it does not say how E is kept in step,
  and a batch of 60,000 for every number of machines gives the same hours with other rounds.
- **Cure.** `sync_every=k` makes the exchange of E k times smaller, E's weights on several servers
  as many times. See the rows above.
- **Not in the model.** Stragglers: a round waits for the slowest of N. Merging beyond the paper's
  own count of images. Caches and memory bandwidth that the processes share here. The chief: it
  spends {1e3 * chief:.1f} core ms on each step of each worker, so one core of it serves
  {1 / chief:.0f} steps a second: {there / chief:.0f} machines at the paper's pace.

## What was measured

A round is one step of every worker; costs are seconds on a core, medians over repetitions. "model"
is what the fitted parts say of the same round.

{measured}
"""


def _paper_hours() -> dict[int, dict[str, float]]:
    return {machines: {"hours": hours} for machines, hours in PAPER_HOURS.items()}


def draw(result: Result, path: pathlib.Path) -> None:
    """Draws the fit, the curve of Table 1 and what a round consists of into a PNG file."""
    figure, (fit, curve, pieces) = plt.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    _draw_fit(fit, result)
    _draw_curve(curve, result)
    _draw_pieces(pieces, result)
    figure.savefig(path, format="png", dpi=110)
    plt.close(figure)


def _draw_fit(axes: plt.Axes, result: Result) -> None:
    for name, field, color in (
        ("server", "server_s", "tab:blue"),
        ("worker", "worker_s", "tab:red"),
    ):
        measured = [getattr(one, field) for one in result.measured]
        model = [result.parts.costs(one)[name] for one in result.measured]
        axes.loglog(measured, model, "o", color=color, label=f"{name}s")
    low, high = axes.get_xlim()
    axes.plot([low, high], [low, high], color="gray", linewidth=1)
    axes.set(
        title="Costs of a round on this machine",
        xlabel="measured, core seconds",
        ylabel="model, core seconds",
    )
    axes.legend()
    axes.grid(alpha=0.3)


def _draw_curve(axes: plt.Axes, result: Result) -> None:
    machines = list(PAPER_HOURS)
    first = machines[0]

    def speedup(hours: Mapping[int, float]) -> list[float]:
        return [first * hours[first] / hours[n] for n in machines]

    axes.plot(machines, machines, color="gray", linewidth=1, label="as many times faster")
    for name, by_machines in result.predicted.items():
        hours = {n: one["hours"] for n, one in by_machines.items()}
        axes.plot(machines, speedup(hours), "o-", markersize=4, label=f"model, {name}")
    axes.plot(machines, speedup(PAPER_HOURS), "k*", markersize=11, label="paper, Table 1")
    axes.set(
        title="Speed by machines",
        xlabel="machines, each a worker and a server",
        ylabel=f"speed ({first} machines = {first})",
    )
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)


def _draw_pieces(axes: plt.Axes, result: Result) -> None:
    plain = result.predicted["10 Gbit/s"]
    labels = [str(n) for n in plain]
    bottom = [0.0] * len(plain)
    for piece in _PIECES:
        seconds = [one[piece] for one in plain.values()]
        axes.bar(labels, seconds, bottom=bottom, label=piece, width=0.6)
        bottom = [below + more for below, more in zip(bottom, seconds, strict=True)]
    paper = paper_rounds()["seconds"]
    axes.plot(labels, [paper[n] for n in plain], "k*", markersize=11, label="paper")
    axes.set(title="A round, 10 Gbit/s", xlabel="machines", ylabel="seconds")
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3, axis="y")
