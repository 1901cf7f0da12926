"""Mean and 95 % interval of a few runs, and of differences that are paired by seed."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence

from scipy import stats

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean and how certain it is.

    Attributes:
        mean: Of the values.
        margin: Half of the interval of 95 % by Student's t; nan of fewer than two values.
        count: Number of values.
    """

    mean: float
    margin: float
    count: int

    @property
    def is_above_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.mean - self.margin > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether the whole interval is."""
        return self.mean + self.margin < 0


def estimate(values: Sequence[float]) -> Estimate:
    """Returns mean and interval: `mean ± t(0.975, n - 1) * s / sqrt(n)`.

    Example:
        >>> e = estimate([0.0, 2.0])
        >>> e.mean, round(e.margin, 3)
        (1.0, 12.706)
    """
    count = len(values)
    if not count:
        return Estimate(math.nan, math.nan, 0)
    margin = math.nan
    if count > 1:
        quantile = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1))
        margin = quantile * statistics.stdev(values) / math.sqrt(count)
    return Estimate(statistics.fmean(values), margin, count)


def paired_difference(values: Mapping[int, float], base: Mapping[int, float]) -> Estimate:
    """Returns what `values` have more than `base`, over the seeds that both have.

    Args:
        values: By seed.
        base: By seed.

    Example:
        >>> paired_difference({0: 3.0, 1: 4.0, 2: 9.0}, {0: 1.0, 1: 2.0}).mean
        2.0
    """
    return estimate([values[seed] - base[seed] for seed in values if seed in base])
