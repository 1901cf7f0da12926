"""What is chosen for a dynamic table: how rows begin, which ids get one, how many there may be."""

from __future__ import annotations

import dataclasses
from typing import Any

import tf_keras as keras

from amstf.errors import ConfigError

WITHOUT_ROW = ("zeros", "initial")
WHEN_FULL = ("least_recent", "least_frequent", "refuse")


@dataclasses.dataclass(frozen=True)
class Admission:
    """Which ids that are seen in training get a row.

    Attributes:
        after: An id gets its row when it has been seen so often, 1 to 255 (1: at once). Sights of
            ids without a row are counted in a counting Bloom filter on each server.
        filter_bytes: Size of that filter, one counter a byte; unused if `after` is 1. An id uses
            four counters: with 10 bytes for each id that has no row about 1 % of them are counted
            too high.
        probability: An id is admitted with this probability each time that it is seen.

    Raises:
        ConfigError: If a value makes no sense.

    Example:
        >>> Admission(after=3).filter_bytes
        16777216
    """

    after: int = 1
    filter_bytes: int = 16 << 20
    probability: float = 1.0

    def __post_init__(self) -> None:
        if not (type(self.after) is int and 1 <= self.after <= 255):
            raise ConfigError(f"after is {self.after!r}; wanted 1 to 255 sights")
        if not (type(self.filter_bytes) is int and 1 <= self.filter_bytes < 2**40):
            raise ConfigError(f"filter_bytes is {self.filter_bytes!r}; wanted a number of bytes")
        if not (isinstance(self.probability, (int, float)) and 0 < self.probability <= 1):
            raise ConfigError(f"probability is {self.probability!r}; wanted above 0, at most 1")


@dataclasses.dataclass(frozen=True)
class TableLimit:
    """How large the part of a table on one server may become.

    Attributes:
        rows: Rows; None is no limit.
        bytes: Of rows with their slots, index and filter; None is no limit.
        when_full: What happens to an id that is to get a row then. "least_recent",
            "least_frequent": it takes the place of another, the one seen longest ago, or least
            often, of 8 picked at random. "refuse": it gets none.

    Raises:
        ConfigError: If a value makes no sense.

    Example:
        >>> TableLimit(bytes=8 << 30).when_full
        'least_recent'
    """

    rows: int | None = None
    bytes: int | None = None
    when_full: str = "least_recent"

    def __post_init__(self) -> None:
        for name in ("rows", "bytes"):
            value = getattr(self, name)
            if value is not None and not (type(value) is int and 1 <= value < 2**63):
                raise ConfigError(f"{name} is {value!r}; wanted a number >= 1, or None")
        if self.when_full not in WHEN_FULL:
            raise ConfigError(f"when_full is {self.when_full!r}; use {', '.join(WHEN_FULL)}")


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """All that is chosen for a table.

    Attributes:
        width: Floats of a row (D).
        initializer: What a row begins with, a function of seed and id: a Keras initializer, one of
            RandomUniform, RandomNormal, Constant, Zeros, Ones, or its name. Its own seed is unused.
        seed: Of initial values, and of admission with a probability.
        admission: Which ids get a row.
        without_row: What a lookup gives for an id without a row: "zeros", or its "initial" value.
        limit: How large the table may become, on each server.

    Raises:
        ConfigError: If a value makes no sense.
    """

    width: int
    initializer: Any = "uniform"
    seed: int = 0
    admission: Admission = Admission()
    without_row: str = "zeros"
    limit: TableLimit = TableLimit()

    def __post_init__(self) -> None:
        if not (type(self.width) is int and 1 <= self.width <= 65536):
            raise ConfigError(f"width is {self.width!r}; wanted 1 to 65536 floats")
        if not (type(self.seed) is int and -(2**63) <= self.seed < 2**63):
            raise ConfigError(f"seed is {self.seed!r}; wanted a 64-bit number")
        if self.without_row not in WITHOUT_ROW:
            raise ConfigError(f"without_row is {self.without_row!r}; use 'zeros' or 'initial'")
        for name, kind in (("admission", Admission), ("limit", TableLimit)):
            if not isinstance(getattr(self, name), kind):
                raise ConfigError(
                    f"{name} is {getattr(self, name)!r}; wanted an amstf.{kind.__name__}"
                )
        object.__setattr__(self, "initializer", keras.initializers.get(self.initializer))
        _kind_and_values(self.initializer)  # Says now what is wrong with it.

    def attributes(self) -> dict[str, Any]:
        """The attributes of the op that makes the table."""
        kind, values = _kind_and_values(self.initializer)
        counts = self.admission.after > 1
        return {
            "width": self.width,
            "initializer": kind,
            "initializer_values": values,
            "seed": self.seed,
            "admit_after": self.admission.after,
            "filter_bytes": self.admission.filter_bytes if counts else 0,
            "admit_probability": float(self.admission.probability),
            "without_row": self.without_row,
            "max_rows": self.limit.rows or 0,
            "max_bytes": self.limit.bytes or 0,
            "at_limit": self.limit.when_full,
        }


def _kind_and_values(initializer: Any) -> tuple[str, tuple[float, ...]]:
    kinds = keras.initializers
    if isinstance(initializer, kinds.Zeros):
        return "constant", (0.0,)
    if isinstance(initializer, kinds.Ones):
        return "constant", (1.0,)
    if isinstance(initializer, kinds.Constant):
        return "constant", (float(initializer.value),)
    if isinstance(initializer, kinds.RandomUniform):
        return "uniform", (float(initializer.minval), float(initializer.maxval))
    if isinstance(initializer, kinds.RandomNormal):
        return "normal", (float(initializer.mean), float(initializer.stddev))
    raise ConfigError(
        f"initializer is {type(initializer).__name__}, which rows that are born one by one cannot "
        "have; use RandomUniform, RandomNormal, Constant, Zeros or Ones"
    )
