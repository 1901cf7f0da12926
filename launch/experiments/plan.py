"""What an experiment compares: variants of a run on a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

IDS, IMAGES, BEHAVIOURS, JOINT = FAMILIES = ("ids", "images", "behaviours", "joint")
"""Models of ids only, and models with images, each family with settings of its own.

Of the latter those that see the behaviours' images alone, and those that see the ad's and these.
"""


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
        prepare: Flags of `launch.prepare` in which its data set differs, by name; None: without.
        is_shown: Whether it is a row of the table; one that others start from need not be.
        members: Variants before it, whose models this one trains together (launch.mutual). In
            `changes` what is not of the whole is of each of them.
        is_scratch: Whether the members begin with random weights and not with those of their runs.
        baseline: The variant that it is compared with; that of the experiment if empty.
    """

    changes: Mapping[str, Any]
    family: str = IMAGES
    after: str = ""
    part: str = ""
    prepare: Mapping[str, str | None] = dataclasses.field(default_factory=dict)
    is_shown: bool = True
    members: tuple[str, ...] = ()
    is_scratch: bool = False
    baseline: str = ""

    @property
    def measured_members(self) -> tuple[str, ...]:
        """Members with results of their own; where nothing is trained they have them already."""
        return () if self.changes.get("epochs") == 0 else self.members


def of_member(variant: str, member: str) -> str:
    """Returns the name of the results of one model of a variant that trains several.

    Example:
        >>> of_member("together", "din")
        'together: din'
    """
    return f"{variant}: {member}"


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table: the results of a variant, compared with those of another."""

    name: str
    baseline: str


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
        is_relative: Whether differences are in % of the baseline, not in points.
        control: What is added to a member's name to name the variant that its results of training
            together are compared with too, where there is one; "" for none.
    """

    title: str
    variants: Mapping[str, Variant]
    baseline: str
    data: tuple[str, ...]
    metrics: tuple[Metric, ...] = ()
    measures_test: bool = True
    is_relative: bool = False
    control: str = ""

    def __post_init__(self) -> None:
        names = list(self.variants)
        assert self.baseline in names, self.baseline
        for place, variant in enumerate(self.variants.values()):
            for other in (variant.after, variant.baseline, *variant.members):
                assert not other or other in names[:place], other

    @property
    def rows(self) -> tuple[Row, ...]:
        """What is shown: each variant, and each model of one that trains several."""
        rows = []
        for name, variant in self.variants.items():
            if not variant.is_shown:
                continue
            rows.append(Row(name, variant.baseline or self.baseline))
            for member in variant.measured_members:
                rows.append(Row(of_member(name, member), member))
                control = f"{member}{self.control}"
                if control != member and control in self.variants and not variant.is_scratch:
                    rows.append(Row(of_member(name, member), control))
        return tuple(rows)
