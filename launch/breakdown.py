"""Metrics by how much was known in training, and reliability: where a model is good, and where not.

Pure numpy; the numbers of RUN/report.html.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from launch.evaluation import Counts, Metrics, Predictions, measure

_Z95 = 1.959964  # Standard deviations of a normal distribution that hold 95 % of it.


@dataclasses.dataclass(frozen=True)
class Bucket:
    """Impressions whose users (or items) were seen about as often in training.

    Attributes:
        fewest: Smallest number of impressions in training among them.
        most: The largest.
        keys: Distinct users (or items).
        metrics: Of these impressions.
    """

    fewest: int
    most: int
    keys: int
    metrics: Metrics

    @property
    def label(self) -> str:
        """Its range, e.g. `3-17`."""
        if self.most == 0:
            return "unseen"
        few, most = f"{self.fewest:,}", f"{self.most:,}"
        return few if few == most else f"{few}-{most}"


def by_training_impressions(
    predictions: Predictions, keys: np.ndarray, counts: Counts, num_seen: int = 5
) -> list[Bucket]:
    """Measures predictions by how often their key was seen in training.

    Args:
        predictions: Of a split.
        keys: The user or the item of each prediction [n].
        counts: Impressions of each key in training; a key that is not in it is unseen.
        num_seen: Buckets besides that of unseen keys, of about equally many impressions. Fewer if
            keys that are seen equally often, which stay together, do not allow as many.

    Returns:
        The buckets that hold anything, from unseen to most seen.
    """
    distinct, which = np.unique(keys, return_inverse=True)
    seen = np.array([counts.get(key, 0) for key in distinct], np.int64)[which]
    if not seen.any():
        borders = np.zeros(1, np.int64)
    else:
        shares = np.arange(1, num_seen) / num_seen
        inner = np.quantile(seen[seen > 0], shares, method="lower")
        borders = np.unique(np.concatenate(([0], inner, [seen.max()])))
    bucket = np.searchsorted(borders, seen)  # Borders belong to the bucket below them.
    return [
        Bucket(
            fewest=int(seen[chosen].min()),
            most=int(seen[chosen].max()),
            keys=len(np.unique(which[chosen])),
            metrics=measure(predictions, chosen),
        )
        for chosen in (bucket == index for index in range(len(borders)))
        if chosen.any()
    ]


@dataclasses.dataclass(frozen=True)
class ReliabilityBin:
    """Impressions of about the same prediction.

    Attributes:
        impressions: How many.
        clicks: Clicks among them.
        predicted: Mean predicted click probability.
        low, high: Ends of the 95 % Wilson interval of the click rate.
    """

    impressions: int
    clicks: int
    predicted: float
    low: float
    high: float

    @property
    def observed(self) -> float:
        """The click rate."""
        return self.clicks / self.impressions

    @property
    def is_off(self) -> bool:
        """Whether chance does not explain the difference, to 95 %."""
        return not self.low <= self.predicted <= self.high


def reliability(predictions: Predictions, num_bins: int = 12) -> list[ReliabilityBin]:
    """Compares predicted and observed click rates.

    Args:
        predictions: Of a split.
        num_bins: Bins of equally many impressions, by prediction; fewer of fewer impressions.

    Returns:
        The bins from the lowest prediction to the highest.
    """
    order = np.argsort(predictions.scores, kind="stable")
    bins = []
    for chosen in np.array_split(order, min(num_bins, len(order)) or 1):
        if not len(chosen):
            continue
        clicks = int(predictions.labels[chosen].sum())
        predicted = float(predictions.scores[chosen].mean(dtype=np.float64))
        bins.append(
            ReliabilityBin(len(chosen), clicks, predicted, *_wilson_interval(clicks, len(chosen)))
        )
    return bins


def calibration_error(bins: list[ReliabilityBin]) -> float:
    """Mean distance of predicted from observed click rate over impressions (ECE); nan of none."""
    impressions = sum(part.impressions for part in bins)
    off = sum(part.impressions * abs(part.predicted - part.observed) for part in bins)
    return off / impressions if impressions else float("nan")


def _wilson_interval(clicks: int, impressions: int) -> tuple[float, float]:
    """Unlike the normal interval it stays within 0 and 1, and has a width where nobody clicked."""
    rate, noise = clicks / impressions, _Z95**2 / impressions
    middle = (rate + noise / 2) / (1 + noise)
    half = (noise * rate * (1 - rate) + noise**2 / 4) ** 0.5 / (1 + noise)
    return max(0.0, middle - half), min(1.0, middle + half)
