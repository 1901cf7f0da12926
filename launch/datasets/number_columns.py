"""Columns of numbers: how they are spread, and the floats or ids of buckets that they become.

What has to be known before is measured in a first pass, over the training split alone.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from amstf.errors import ConfigError

PLAIN, LOG, STANDARD, LOG_STANDARD = NUMBER_MAPS = ("plain", "log", "standard", "log_standard")
"""How a dense number becomes a float: as it is; `sign(x) log(1 + |x|)`; with mean 0 and variance 1
over the training split; the second and then the third."""

BUCKETS, LOG_BUCKETS = BUCKETINGS = ("buckets", "log_buckets")
"""How a number becomes an id: by quantiles of the training split, or by its logarithm."""

_SAMPLE = 1 << 17


class UniformSample:
    """A uniform sample without replacement of a stream of numbers, of bounded size.

    A stream of up to `size` numbers is kept whole, so that its quantiles are exact.

    Args:
        size: Numbers to keep.
        seed: Decides which.

    Example:
        >>> sample = UniformSample()
        >>> sample.add(np.array([3.0, 1.0, 2.0]))
        >>> sample.quantiles(np.array([0.5])).tolist()
        [2.0]
    """

    def __init__(self, size: int = _SAMPLE, seed: int = 0) -> None:
        self._size = size
        self._rng = np.random.default_rng(seed)
        self._keys = np.empty(0)
        self._values = np.empty(0)

    def add(self, values: np.ndarray) -> None:
        """Adds numbers [n]; NaN are passed over."""
        values = np.asarray(values, np.float64)
        values = values[~np.isnan(values)]
        # Those with the smallest keys of all are a uniform sample, however they came in.
        self._keys = np.concatenate([self._keys, self._rng.random(len(values))])
        self._values = np.concatenate([self._values, values])
        if len(self._keys) > self._size:
            kept = np.argpartition(self._keys, self._size)[: self._size]
            self._keys, self._values = self._keys[kept], self._values[kept]

    def __len__(self) -> int:
        return len(self._values)

    def quantiles(self, shares: np.ndarray) -> np.ndarray:
        """Returns the value below which each share of the stream lies, each one of the values."""
        return np.quantile(self._values, shares, method="inverted_cdf")


class NumberStatistics:
    """Mean, variance and quantiles of a column of numbers, as they stream by.

    Example:
        >>> statistics = NumberStatistics()
        >>> statistics.add(np.array([1.0, 3.0, np.nan]))
        >>> statistics.mean, statistics.deviation
        (2.0, 1.0)
    """

    def __init__(self) -> None:
        self.sample = UniformSample()
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0  # Of the distances from the mean.

    @property
    def deviation(self) -> float:
        """The standard deviation, 0 of no numbers."""
        return math.sqrt(self._squares / self.count) if self.count else 0.0

    def add(self, values: np.ndarray) -> None:
        """Adds numbers [n]; NaN are passed over."""
        self.sample.add(values)
        values = values[~np.isnan(values)]
        if not len(values):
            return
        # Chan's update: the difference of two large sums would lose what float64 has to give.
        mean, total = values.mean(), self.count + len(values)
        distance = mean - self.mean
        self._squares += ((values - mean) ** 2).sum() + distance**2 * self.count * len(
            values
        ) / total
        self.mean += distance * len(values) / total
        self.count = total

    def limits(self, buckets: int) -> np.ndarray:
        """Returns limits of at most so many buckets that hold about equally many numbers each."""
        if not len(self.sample):
            return np.empty(0)
        return np.unique(self.sample.quantiles(np.arange(1, buckets) / buckets))


@dataclasses.dataclass(frozen=True)
class NumberMap:
    """Makes a dense feature of a column of numbers; a missing one becomes 0 after the map.

    Attributes:
        kind: One of `NUMBER_MAPS`.
        mean: Of the training split, after the logarithm if there is one.
        deviation: Likewise.

    Example:
        >>> NumberMap("log")(np.array([np.e - 1, np.nan])).tolist()
        [1.0, 0.0]
    """

    kind: str = PLAIN
    mean: float = 0.0
    deviation: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in NUMBER_MAPS:
            raise ConfigError(f"numbers are mapped by {self.kind!r}; use {', '.join(NUMBER_MAPS)}")

    @property
    def needs_statistics(self) -> bool:
        """Whether `fitted` has to be called first."""
        return self.kind in (STANDARD, LOG_STANDARD)

    def fitted(self, statistics: NumberStatistics) -> NumberMap:
        """Returns the map with mean and deviation of what `unscaled` gave of the training split."""
        return dataclasses.replace(
            self, mean=statistics.mean, deviation=statistics.deviation or 1.0
        )

    def unscaled(self, values: np.ndarray) -> np.ndarray:
        """Returns the numbers before mean and deviation, float64 [n]."""
        if self.kind in (LOG, LOG_STANDARD):
            return np.sign(values) * np.log1p(np.abs(values))
        return values

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Maps float64 [n], NaN where one is missing, to float32 [n]."""
        scaled = (self.unscaled(values) - self.mean) / self.deviation
        return np.nan_to_num(scaled, nan=0.0).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Bucketing:
    """Makes an id of a number: 0 if it is missing, else 1 + the number of limits that it reaches.

    Attributes:
        limits: Ascending.

    Example:
        >>> Bucketing((0.0, 10.0)).ids(np.array([-1.0, 0.0, 10.0, np.nan])).tolist()
        [1, 2, 3, 0]
    """

    limits: tuple[float, ...]

    @property
    def size(self) -> int:
        """`Field.vocabulary_size`."""
        return len(self.limits) + 2

    def ids(self, values: np.ndarray) -> np.ndarray:
        """Returns the ids of numbers, int64 [n]."""
        found = 1 + np.searchsorted(np.asarray(self.limits), values, side="right")
        return np.where(np.isnan(values), 0, found).astype(np.int64)


LOG_BUCKET_IDS = 1000
"""Ids that `log_bucket_ids` gives at most."""


def log_bucket_ids(values: np.ndarray) -> np.ndarray:
    """Makes an id of a number x by its logarithm: `floor(ln(x)^2)` above 2, as is usual for Criteo.

    0 if it is missing, 1 if it is negative, 2 + x for x below 3 (rounded down), and from 3 on
    `4 + floor(ln(x)^2)`, at most `LOG_BUCKET_IDS` - 1. Needs no first pass.

    Example:
        >>> log_bucket_ids(np.array([np.nan, -1.0, 0.0, 2.0, 3.0, 100.0])).tolist()
        [0, 1, 2, 4, 5, 25]
    """
    above = np.maximum(values, 3.0)
    ids = np.select(
        [np.isnan(values), values < 0, values < 3],
        [0, 1, 2 + np.floor(np.nan_to_num(values))],
        4 + np.floor(np.log(above) ** 2),
    )
    return np.minimum(ids, LOG_BUCKET_IDS - 1).astype(np.int64)
