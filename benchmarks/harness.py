"""What every benchmark shares: flags, repeated timings with their spread, and the record of a run.

A benchmark is a module with a `main` that times things with `measure`, prints a table and ends with
`report.finish()`, whose last line is one JSON object.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

RESULTS = pathlib.Path(__file__).with_name("results")
_ROOT = pathlib.Path(__file__).resolve().parent.parent

FLAGS = flags.FLAGS
flags.DEFINE_bool("quick", False, "A smaller run of less than a minute: does it still work?")
flags.DEFINE_bool("keep", False, "Write the result to benchmarks/results/, where the repository "
                  "keeps it.")  # fmt: skip
flags.DEFINE_string("out", None, "Write the result to this JSON file.")


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of each repetition of one thing.

    Attributes:
        seconds: In the order measured, warm-up left out.
    """

    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds:
            raise ValueError("seconds is empty; measure at least once")

    @property
    def median(self) -> float:
        """The middle one: what a noisy neighbour disturbs least."""
        return statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """The fastest and the slowest."""
        return min(self.seconds), max(self.seconds)

    def as_json(self) -> dict[str, Any]:
        """Median, spread and number of repetitions."""
        fastest, slowest = self.spread
        return {
            "median_s": self.median,
            "min_s": fastest,
            "max_s": slowest,
            "repeats": len(self.seconds),
        }


def measure(
    action: Callable[[], Any], *, repeats: int, warm_up: int = 1, seconds: float | None = None
) -> Timing:
    """Times one thing several times.

    Args:
        action: What to time; what it returns is released after the clock has stopped.
        repeats: How often, at most.
        warm_up: Runs before, not timed: page cache, memory, thread pools.
        seconds: Stop early after this time; at least one repetition is made.

    Example:
        >>> timing = measure(lambda: sum(range(1000)), repeats=3)
        >>> len(timing.seconds)
        3
    """
    return measure_together({"": action}, repeats=repeats, warm_up=warm_up, seconds=seconds)[""]


def measure_together(
    actions: Mapping[str, Callable[[], Any]],
    *,
    repeats: int,
    warm_up: int = 1,
    seconds: float | None = None,
) -> dict[str, Timing]:
    """Times several things in turn, so that a busy moment of the machine meets all of them.

    Args:
        actions: As in `measure`, by name.
        repeats: Rounds, at most.
        warm_up: Rounds before, not timed.
        seconds: Stop early after this time; at least one round is made.
    """
    for _ in range(warm_up):
        for action in actions.values():
            action()
    taken: dict[str, list[float]] = {name: [] for name in actions}
    begin = time.perf_counter()
    for _ in range(max(1, repeats)):
        for name, action in actions.items():
            start = time.perf_counter()
            result = action()
            taken[name].append(time.perf_counter() - start)
            del result
        if seconds is not None and time.perf_counter() - begin > seconds:
            break
    return {name: Timing(tuple(values)) for name, values in taken.items()}


def machine() -> dict[str, Any]:
    """What a number depends on besides the code: processor, load, versions, commit."""
    versions = {"python": platform.python_version()}
    for package in ("tensorflow", "tf-keras", "numpy", "h5py"):
        versions[package] = importlib.metadata.version(package)
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_at_start": os.getloadavg()[0],
        "kernel": platform.release(),
        "versions": versions,
        "commit": _git("rev-parse", "HEAD"),
        "changed_since_commit": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


class Report:
    """Collects the results of one run.

    Args:
        name: Name of the benchmark, and of its file in benchmarks/results/.
        config: A dataclass: all that was chosen for this run.
    """

    def __init__(self, name: str, config: Any) -> None:
        self.name = name
        self.config = config
        self.results: dict[str, Any] = {}
        self.ratios: dict[str, Any] = {}
        self._machine = machine()

    def as_json(self) -> dict[str, Any]:
        """Everything: the ratios first, then configuration, results and machine."""
        return {
            **self.ratios,
            "benchmark": self.name,
            "config": dataclasses.asdict(self.config),
            "results": self.results,
            "machine": self._machine,
        }

    def finish(self) -> None:
        """Writes the file that the flags ask for; the JSON object is the last line printed."""
        paths = [pathlib.Path(FLAGS.out)] if FLAGS.out else []
        if FLAGS.keep:
            paths.append(RESULTS / f"{self.name}.json")
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.as_json(), indent=2) + "\n")
            print(f"written: {path}")
        print(json.dumps(self.as_json()))


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Aligns text to the left and numbers to the right.

    Example:
        >>> print(table(["what", "GB/s"], [["copy", 12.3456], ["lookup", 9]]))
        what    GB/s
        copy   12.35
        lookup     9
    """
    cells = [list(header)] + [[_cell(value) for value in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    is_text = [all(isinstance(row[column], str) for row in rows) for column in range(len(header))]
    lines = []
    for row in cells:
        aligned = [
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(row, widths, is_text, strict=True)
        ]
        lines.append(" ".join(aligned).rstrip())
    return "\n".join(lines)


def peak_mb() -> float:
    """Returns the greatest memory that this process has had so far, in MB."""
    status = pathlib.Path("/proc/self/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert peak, "this kernel does not tell"
    return int(peak[1]) / 1e3


def _cell(value: Any) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _processor() -> str:
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()
