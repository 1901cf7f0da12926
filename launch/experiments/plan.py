"""What an experiment compares: variants of a run on a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

IDS, IMAGES = FAMILIES = ("ids", "images")
"""Models that see ids only, and models with images: each family has settings of its own."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that is measured of each run.

    Attributes:
        key: Its name in the kept results.
        title: Its name in tables.
    """

    key: str
    title: str


AUC = Metric("auc", "AUC")
GAUC = Metric("gauc", "GAUC")
USER_AUC = Metric("user_auc", "per-user AUC")
NEW_AUC = Metric("new_auc", "AUC, new items")
VALIDATION_AUC = Metric("validation_auc", "validation AUC")


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way of training.

    Attributes:
        changes: Attributes of `RunConfig` that differ from the settings of the data set.
        family: Whose settings these are, one of `FAMILIES`.
        after: Name of a variant before it, whose run this one starts from (`RunConfig.warm_start`).
        part: Which part of the training split it sees, "" for all; one of `halves.HALVES`.
        is_shown: Whether it is a row of the table; one that others start from need not be.
    """

    changes: Mapping[str, Any]
    family: str = IMAGES
    after: str = ""
    part: str = ""
    is_shown: bool = True


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A comparison.

    Attributes:
        title: One line.
        variants: By name, in the order of the table.
        baseline: The variant that the others are compared with.
        data: Names of the data sets that it is meant for.
        metrics: What it shows; those of the data set if empty.
        measures_test: Whether the test split is measured. Tuning does without, so that nobody can
            choose by it.
    """

    title: str
    variants: Mapping[str, Variant]
    baseline: str
    data: tuple[str, ...]
    metrics: tuple[Metric, ...] = ()
    measures_test: bool = True

    def __post_init__(self) -> None:
        names = list(self.variants)
        assert self.baseline in names, self.baseline
        for place, variant in enumerate(self.variants.values()):
            assert not variant.after or variant.after in names[:place], variant.after
