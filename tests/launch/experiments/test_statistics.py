"""Means and intervals, by hand."""

import math

import pytest

from launch.experiments.statistics import Estimate, estimate, paired_difference

# Two-sided quantiles of Student's t at 95 %, from a printed table.
T_2, T_4 = 4.303, 2.776


def test_interval_by_hand():
    got = estimate([1.0, 2.0, 3.0, 4.0, 5.0])
    assert got.mean == 3.0
    assert got.margin == pytest.approx(T_4 * math.sqrt(2.5) / math.sqrt(5), rel=1e-3)
    assert got.count == 5


def test_one_value_has_no_interval_and_none_no_mean():
    assert estimate([0.7]).mean == 0.7
    assert math.isnan(estimate([0.7]).margin)
    assert math.isnan(estimate([]).mean)
    assert not estimate([0.7]).is_above_zero
    assert not estimate([-0.7]).is_below_zero


def test_differences_are_paired_by_seed():
    got = paired_difference({0: 10.0, 1: 21.0, 2: 30.0, 7: 99.0}, {0: 9.0, 1: 18.0, 2: 28.0})
    assert got.mean == 2.0  # of 1, 3, 2
    assert got.margin == pytest.approx(T_2 * 1.0 / math.sqrt(3), rel=1e-3)
    assert not got.is_above_zero


def test_sign():
    assert Estimate(1.0, 0.5, 3).is_above_zero
    assert Estimate(-1.0, 0.5, 3).is_below_zero
    assert not Estimate(1.0, 1.5, 3).is_above_zero
