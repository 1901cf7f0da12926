"""Buckets and reliability against numbers made by hand."""

import math

import numpy as np
import pytest

from launch import breakdown
from launch.evaluation import Predictions


def predictions(labels, scores, groups=None, items=None):
    return Predictions(np.array(labels, np.float32), np.array(scores, np.float32), groups, items)


def test_buckets_by_training_impressions():
    users = np.array([b"new", b"a", b"a", b"b", b"b", b"c", b"c", b"c"], object)
    made = predictions([1, 0, 1, 1, 0, 0, 1, 1], [0.5, 0.1, 0.9, 0.2, 0.3, 0.5, 0.5, 0.4], users)
    counts = {b"a": 2, b"b": 3, b"c": 1000, b"not shown": 7}
    unseen, few, many = breakdown.by_training_impressions(made, users, counts, num_seen=2)
    assert [bucket.label for bucket in (unseen, few, many)] == ["unseen", "2-3", "1,000"]
    assert [bucket.metrics.impressions for bucket in (unseen, few, many)] == [1, 4, 3]
    assert [bucket.keys for bucket in (unseen, few, many)] == [1, 2, 1]
    assert math.isnan(unseen.metrics.auc)
    assert few.metrics.gauc == 0.5  # User a is ranked right, user b wrong.
    assert few.metrics.auc == 0.75
    assert many.metrics.auc == 0.25


def test_keys_seen_equally_often_stay_together():
    items = np.arange(100)
    made = predictions(items % 2, items / 100, items=items)
    (bucket,) = breakdown.by_training_impressions(made, items, dict.fromkeys(range(100), 4))
    assert (bucket.label, bucket.metrics.impressions) == ("4", 100)


def test_nothing_was_seen():
    items = np.array([1, 2, 3])
    (bucket,) = breakdown.by_training_impressions(
        predictions([0, 1, 1], [0.1, 0.2, 0.3]), items, {9: 4}
    )
    assert (bucket.label, bucket.keys) == ("unseen", 3)


def test_reliability():
    scores = [0.05] * 10 + [0.5] * 10 + [0.9] * 10
    labels = [0] * 10 + [1] * 5 + [0] * 5 + [1] * 5 + [0] * 5
    order = np.random.default_rng(1).permutation(30)
    made = predictions(np.array(labels)[order], np.array(scores)[order])
    low, right, high = breakdown.reliability(made, num_bins=3)
    assert (low.impressions, low.clicks, low.observed) == (10, 0, 0.0)
    # Wilson's intervals of 0 of 10 and 5 of 10, as in tables.
    assert (low.low, low.high) == (0.0, pytest.approx(0.2775, abs=1e-4))
    assert (right.low, right.high) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert [part.is_off for part in (low, right, high)] == [False, False, True]
    assert high.predicted == pytest.approx(0.9)
    assert breakdown.calibration_error([low, right, high]) == pytest.approx(0.45 / 3)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_fewer_impressions_than_bins(count):
    bins = breakdown.reliability(predictions([1] * count, [0.5] * count))
    assert [part.impressions for part in bins] == [1] * count
    assert math.isnan(breakdown.calibration_error(bins)) == (count == 0)
