"""Exact AUC, GAUC and log loss over all scores at once.

Keras' AUC metric sums over thresholds and so rounds; differences between click models are often
smaller than that rounding (arXiv 1711.06505, section 7 reports gains of 0.1 to 0.5 points).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from amstf.errors import MetricError

_EPSILON = 1e-7  # keras.backend.epsilon(), below what float32 scores resolve near 1


@dataclasses.dataclass(frozen=True)
class GaucResult:
    """GAUC and what it was computed from.

    Attributes:
        value: The impression-weighted mean of the users' AUC; nan if no user has both classes.
        impressions: Impressions of the users that count.
        users: Users that count: those with at least one click and one impression without.
        skipped_users: Users with one class only, for whom AUC has no meaning.
        skipped_impressions: Impressions of the skipped users.
        mean_user_auc: The plain mean of the users' AUC, which counts a light user as much as a
            heavy one; nan as `value`.
    """

    value: float
    impressions: int
    users: int
    skipped_users: int
    skipped_impressions: int
    mean_user_auc: float


def auc(labels: Any, scores: Any) -> float:
    """Computes the exact area under the ROC curve; equal scores count one half (mid-ranks).

    `AUC = (sum of the ranks of the positives - P (P + 1) / 2) / (P N)`.

    Args:
        labels: [B] or [B, 1], 0 or 1 (or bool).
        scores: [B] or [B, 1] floats in any monotone scale.

    Returns:
        The AUC, or nan if the labels lack a class (an empty input too).

    Raises:
        MetricError: If a label is neither 0 nor 1, a score is NaN, or the lengths differ.

    Example:
        >>> auc([0, 1, 1], [0.2, 0.2, 0.9])
        0.75
    """
    labels, scores = _checked(labels, scores)
    return gauc(labels, scores, np.zeros(len(labels), np.int64)).value


def gauc(labels: Any, scores: Any, groups: Any) -> GaucResult:
    """Computes the grouped AUC, which only compares impressions of the same user.

    `GAUC = sum_u impressions_u * AUC_u / sum_u impressions_u` (arXiv 1711.06505, 7.1) over the
    users that have both classes. Sorts once and loops over nothing.

    Args:
        labels: [B] or [B, 1], 0 or 1 (or bool).
        scores: [B] or [B, 1] floats in any monotone scale.
        groups: [B] or [B, 1] ids of the users, integers or strings (str or bytes).

    Returns:
        The GAUC with the number of users and impressions that it covers and that it leaves out.

    Raises:
        MetricError: If a label is neither 0 nor 1, a score is NaN, the lengths differ, or groups
            are neither integers nor strings.

    Example:
        >>> gauc([0, 1, 0, 1, 1], [0.1, 0.4, 0.8, 0.6, 0.5], ["a", "a", "b", "b", "c"])
        GaucResult(value=0.5, impressions=4, users=2, skipped_users=1, skipped_impressions=1,
                    mean_user_auc=0.5)
    """
    labels, scores = _checked(labels, scores)
    groups = _checked_groups(groups, len(labels))
    if not len(labels):
        return GaucResult(float("nan"), 0, 0, 0, 0, float("nan"))
    order = np.lexsort((scores, groups))
    labels, scores, groups = labels[order], scores[order], groups[order]

    new_group = np.concatenate(([True], groups[1:] != groups[:-1]))
    new_score = new_group | np.concatenate(([True], scores[1:] != scores[:-1]))
    group_starts = np.flatnonzero(new_group)
    group_sizes = np.diff(np.append(group_starts, len(labels)))
    score_starts = np.flatnonzero(new_score)
    score_sizes = np.diff(np.append(score_starts, len(labels)))

    # Twice the ranks, because a mid-rank may end in .5 and whole numbers add up without rounding.
    ranks = np.repeat(2 * score_starts + score_sizes + 1, score_sizes)
    ranks -= 2 * np.repeat(group_starts, group_sizes)
    positives = np.add.reduceat(labels, group_starts)
    negatives = group_sizes - positives
    wins = np.add.reduceat(ranks * labels, group_starts) - positives * (positives + 1)

    both = (positives > 0) & (negatives > 0)
    sizes = group_sizes[both]
    impressions = int(sizes.sum())
    group_auc = wins[both] / (2 * positives[both] * negatives[both])
    return GaucResult(
        value=float((sizes * group_auc).sum() / impressions) if impressions else float("nan"),
        impressions=impressions,
        users=len(sizes),
        skipped_users=len(group_sizes) - len(sizes),
        skipped_impressions=len(labels) - impressions,
        mean_user_auc=float(group_auc.mean()) if len(sizes) else float("nan"),
    )


def log_loss(labels: Any, scores: Any) -> float:
    """Computes the mean binary cross-entropy in float64.

    `-mean(y log p + (1 - y) log(1 - p))`, with p kept 1e-7 away from 0 and 1, so that one
    certain error does not make the mean infinite.

    Args:
        labels: [B] or [B, 1], 0 or 1 (or bool).
        scores: [B] or [B, 1] probabilities.

    Returns:
        The log loss in nats, or nan for an empty input.

    Raises:
        MetricError: If a label is neither 0 nor 1, a score is no probability, or lengths differ.

    Example:
        >>> round(log_loss([0, 1], [0.5, 0.5]), 4)
        0.6931
    """
    labels, scores = _checked(labels, scores)
    if not len(labels):
        return float("nan")
    outside = (scores < 0) | (scores > 1)
    if outside.any():
        raise MetricError(
            f"scores: {_first(outside, scores)}; log_loss wants probabilities from 0 to 1 "
            "(apply a sigmoid to logits)"
        )
    probability = np.clip(scores.astype(np.float64), _EPSILON, 1 - _EPSILON)
    return float(-np.mean(np.log(np.where(labels == 1, probability, 1 - probability))))


def _checked(labels: Any, scores: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns labels as [B] int64 and scores as [B] floats."""
    labels, scores = _flat("labels", labels), _flat("scores", scores)
    if len(labels) != len(scores):
        raise MetricError(f"labels has {len(labels)} values and scores {len(scores)}; give as many")
    for name, values in (("labels", labels), ("scores", scores)):
        if values.dtype.kind not in "biuf":
            raise MetricError(f"{name} has dtype {values.dtype}; give numbers")
    wrong = (labels != 0) & (labels != 1)
    if wrong.any():
        raise MetricError(f"labels: {_first(wrong, labels)}; labels are 0 or 1")
    if scores.dtype.kind == "f" and np.isnan(scores).any():
        wrong = np.isnan(scores)
        raise MetricError(f"scores: {_first(wrong, scores)}; has the training diverged?")
    return labels.astype(np.int64), scores


def _checked_groups(groups: Any, length: int) -> np.ndarray:
    groups = _flat("groups", groups)
    if len(groups) != length:
        raise MetricError(f"labels has {length} values and groups {len(groups)}; give as many")
    if groups.dtype.kind == "O":
        # TensorFlow hands out strings as objects; numpy sorts numbers, not objects, in C.
        kinds = set(map(type, groups))
        if len(kinds) > 1 or not kinds <= {bytes, str, int}:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise MetricError(f"groups holds {names}; give integers or strings, all of one type")
        return np.unique(groups, return_inverse=True)[1]
    if length and groups.dtype.kind not in "biuSU":
        raise MetricError(f"groups has dtype {groups.dtype}; give integers or strings")
    return groups


def _flat(name: str, values: Any) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 1:
        raise MetricError(f"{name} has shape {array.shape}; give [B] or [B, 1]")
    return array


def _first(wrong: np.ndarray, values: np.ndarray) -> str:
    where = int(np.flatnonzero(wrong)[0])
    return f"{int(wrong.sum())} bad values, the first is {values[where]} at position {where}"
