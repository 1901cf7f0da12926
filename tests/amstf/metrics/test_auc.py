"""AUC, GAUC and log loss against definitions that compare every pair."""

import math
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from amstf.errors import AmstfError, MetricError
from amstf.metrics import GaucResult, auc, gauc, log_loss


def pairwise_auc(labels, scores):
    positives = [s for y, s in zip(labels, scores, strict=True) if y == 1]
    negatives = [s for y, s in zip(labels, scores, strict=True) if y == 0]
    if not positives or not negatives:
        return math.nan
    wins = sum((p > n) + 0.5 * (p == n) for p in positives for n in negatives)
    return wins / (len(positives) * len(negatives))


def pairwise_gauc(labels, scores, groups):
    total = impressions = skipped_users = skipped = 0
    values = []
    for user in set(groups):
        rows = [i for i, g in enumerate(groups) if g == user]
        value = pairwise_auc([labels[i] for i in rows], [scores[i] for i in rows])
        if math.isnan(value):
            skipped_users += 1
            skipped += len(rows)
        else:
            total += len(rows) * value
            impressions += len(rows)
            values.append(value)
    mean = total / impressions if impressions else math.nan
    plain = sum(values) / len(values) if values else math.nan
    return GaucResult(mean, impressions, len(values), skipped_users, skipped, plain)


@pytest.mark.parametrize("distinct_scores", [1, 3, 1000])
@pytest.mark.parametrize("num_users", [1, 4, 60])
@pytest.mark.parametrize("click_rate", [0.03, 0.5])
@pytest.mark.parametrize("size", [1, 2, 17, 120])
def test_equals_the_comparison_of_every_pair(size, click_rate, num_users, distinct_scores):
    rng = np.random.default_rng(size * 1000 + num_users + distinct_scores)
    labels = (rng.random(size) < click_rate).astype(np.float32)
    scores = (rng.integers(distinct_scores, size=size) / distinct_scores).astype(np.float32)
    groups = rng.integers(num_users, size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got_auc = auc(labels, scores)
        got = gauc(labels, scores, groups)
    np.testing.assert_allclose(got_auc, pairwise_auc(labels, scores), rtol=1e-12)
    want = pairwise_gauc(labels.tolist(), scores.tolist(), groups.tolist())
    np.testing.assert_allclose(got.value, want.value, rtol=1e-12)
    np.testing.assert_allclose(got.mean_user_auc, want.mean_user_auc, rtol=1e-12)
    assert (got.impressions, got.users) == (want.impressions, want.users)
    assert (got.skipped_users, got.skipped_impressions) == (
        want.skipped_users,
        want.skipped_impressions,
    )


def test_by_hand():
    # u: 3 impressions, one of two pairs won -> 1/2.  v: 2 impressions, won -> 1.  w: no click.
    result = gauc([1, 0, 0, 1, 0, 0], [0.5, 0.1, 0.9, 0.3, 0.2, 0.7], list("uuuvvw"))
    assert result == GaucResult(
        pytest.approx((3 * 0.5 + 2 * 1) / 5), 5, 2, 1, 1, pytest.approx((0.5 + 1) / 2)
    )


def test_extremes():
    assert auc([0, 0, 1, 1], [1, 2, 3, 4]) == 1.0
    assert auc([1, 1, 0, 0], [1, 2, 3, 4]) == 0.0
    assert auc([1, 0, 1, 0], [7, 7, 7, 7]) == 0.5
    assert auc([0, 1], [-np.inf, np.inf]) == 1.0


def test_group_ids_of_every_type_give_the_same():
    rng = np.random.default_rng(5)
    labels, scores = rng.integers(2, size=50), rng.random(50)
    users = rng.integers(-3, 6, size=50)
    want = gauc(labels, scores, users)
    strings = [f"user {u}" for u in users]
    for groups in (
        strings,
        [s.encode() for s in strings],
        np.array(strings, object),
        tf.constant(strings).numpy(),
        users[:, None].astype(np.int32),
    ):
        assert gauc(labels[:, None], scores[:, None], groups) == want
    assert want.users > 3


def test_group_ids_beyond_float_precision_stay_apart():
    big = 2**60
    result = gauc([1, 0, 1, 0], [2.0, 1.0, 1.0, 2.0], np.array([big, big, big + 1, big + 1]))
    assert (result.users, result.value) == (2, 0.5)


def test_many_impressions_do_not_round():
    size = 3_000_000
    labels = np.arange(size) % 2
    assert auc(labels, np.zeros(size, np.float32)) == 0.5
    assert auc(labels, labels.astype(np.float32)) == 1.0


@pytest.mark.parametrize("labels", [[], [1], [0, 0]])
def test_without_both_classes_it_is_nan_and_counted(labels):
    scores, groups = [0.5] * len(labels), [3] * len(labels)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert math.isnan(auc(labels, scores))
        result = gauc(labels, scores, groups)
    assert math.isnan(result.value)
    assert (result.impressions, result.users) == (0, 0)
    assert (result.skipped_users, result.skipped_impressions) == (min(len(labels), 1), len(labels))


def test_log_loss_by_hand_and_as_keras():
    want = -(math.log(0.8) + math.log(0.7)) / 2
    assert log_loss([1, 0], [0.8, 0.3]) == pytest.approx(want, rel=1e-12)
    labels = np.array([[1.0], [0.0], [1.0]], np.float32)
    scores = np.array([[0.01], [0.25], [0.999]], np.float32)
    from_keras = float(tf.reduce_mean(keras.losses.binary_crossentropy(labels, scores)))
    assert log_loss(labels, scores) == pytest.approx(from_keras, rel=1e-5)
    assert log_loss([1], [0.0]) == pytest.approx(-math.log(1e-7), rel=1e-12)
    assert math.isnan(log_loss([], []))


@pytest.mark.parametrize(
    ("labels", "scores", "groups", "message"),
    [
        ([0, 1], [0.1, np.nan], [1, 1], r"scores: 1 bad values, the first is nan at position 1"),
        ([0, 2], [0.1, 0.2], [1, 1], r"labels: 1 bad values, the first is 2 .* labels are 0 or 1"),
        ([0, np.nan], [0.1, 0.2], [1, 1], r"labels are 0 or 1"),
        ([0, 1, 1], [0.1, 0.2], [1, 1], r"labels has 3 values and scores 2"),
        ([0, 1], [0.1, 0.2], [1], r"labels has 2 values and groups 1"),
        ([0, 1], [0.1, 0.2], [1.5, 1.0], r"groups has dtype float64; give integers or strings"),
        ([0, 1], [0.1, 0.2], np.array(["a", 1], object), r"groups holds int, str"),
        ([0, 1], ["a", "b"], [1, 1], r"scores has dtype"),
        ([[0, 1]], [0.1, 0.2], [1, 1], r"labels has shape \(1, 2\); give \[B\] or \[B, 1\]"),
    ],
)
def test_bad_input_is_named(labels, scores, groups, message):
    with pytest.raises(MetricError, match=message) as caught:
        gauc(labels, scores, groups)
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, AmstfError)


def test_log_loss_refuses_logits():
    with pytest.raises(MetricError, match=r"first is 1.5 at position 1; log_loss wants prob"):
        log_loss([0, 1], [0.5, 1.5])
