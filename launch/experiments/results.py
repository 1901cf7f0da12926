"""The kept results of an experiment on a data set: a JSON file with a line for each run."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from amstf.atomic_file import write_atomically
from amstf.errors import ConfigError
from launch.json_files import read_json


class Results:
    """Results that are written whenever one comes.

    Args:
        path: The JSON file, which need not exist.

    Raises:
        ConfigError: If the file holds something else.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}
        self.runs: list[dict[str, Any]] = []
        if path.exists():
            content = read_json(path, "results of launch.experiment")
            self.runs = content.pop("runs", None)
            self.facts = content
            if not isinstance(self.runs, list):
                raise ConfigError(f"{path} holds no runs; it is not of launch.experiment")

    def has(self, variant: str, seed: int, digest: str) -> bool:
        """Whether a result of this variant, seed and configuration is there."""
        key = (variant, seed, digest)
        return any((run["variant"], run["seed"], run["digest"]) == key for run in self.runs)

    def take_from(self, other: Results, wanted: Mapping[str, tuple[str, int]]) -> int:
        """Keeps results of another experiment that are those of a run of this one.

        Args:
            other: Of the other experiment.
            wanted: Digest -> variant and seed here.

        Returns:
            How many it held.
        """
        found = [run for run in other.runs if run["digest"] in wanted]
        for run in found:
            variant, seed = wanted[run["digest"]]
            self.keep({**run, "variant": variant, "seed": seed})
        return len(found)

    def keep(self, run: dict[str, Any]) -> None:
        """Adds a result, in the place of an older one of the same variant and seed."""
        others = [r for r in self.runs if _key(r) != _key(run)]
        self.runs = sorted([*others, run], key=_key)
        self.write()

    def describe(self, **facts: Any) -> None:
        """Sets the facts that stand beside the runs."""
        self.facts = facts
        self.write()

    def of(self, variant: str, seeds: Iterable[int]) -> dict[int, dict[str, Any]]:
        """Returns the measures of a variant by seed, as far as they are there."""
        wanted = set(seeds)
        return {
            run["seed"]: run["measures"]
            for run in self.runs
            if run["variant"] == variant and run["seed"] in wanted
        }

    def write(self) -> None:
        """Writes the file, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        facts = json.dumps(self.facts, indent=1)[1:-2].lstrip("\n")
        lines = ",\n  ".join(json.dumps(run) for run in self.runs)
        start = "{\n" + (f"{facts},\n" if facts else "")
        write_atomically(self.path, f'{start} "runs": [\n  {lines}\n ]\n}}\n')


def _key(run: dict[str, Any]) -> tuple[str, int]:
    return run["variant"], run["seed"]
