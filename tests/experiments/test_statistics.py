"""Intervals, shares and Holm's correction."""

import numpy as np
import pytest
import scipy.stats

from experiments import statistics


def test_intervals_are_those_of_scipy():
    values, others = [1.0, 2.0, 4.0, 5.0], [0.5, 2.5, 3.0, 3.0]
    found = statistics.interval(values)
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((3.0, low, high))
    low, high = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.9)
    found = statistics.interval(values, 0.9)
    assert (found.low, found.high) == pytest.approx((low, high))
    paired = statistics.paired(values, others)
    low, high = scipy.stats.ttest_rel(values, others).confidence_interval(0.95)
    assert (paired.mean, paired.low, paired.high) == pytest.approx((0.75, low, high))
    assert not paired.excludes_zero
    assert statistics.p_value(np.subtract(values, others)) == pytest.approx(
        scipy.stats.ttest_rel(values, others).pvalue
    )
    # By hand: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.3027.
    assert statistics.interval([1.0, 2.0, 3.0]).high == pytest.approx(2 + 4.3027 / 3**0.5, abs=1e-4)
    with pytest.raises(ValueError, match="at least 2"):
        statistics.interval([1.0])


def test_A2_a_share_has_the_interval_of_fieller():
    """It holds exactly those ratios that a paired t test does not refuse."""
    part, whole = np.array([0.04, 0.05, 0.03, 0.06]), np.array([0.1, 0.12, 0.09, 0.08])
    found = statistics.share(part, whole)
    assert found.mean == pytest.approx(part.mean() / whole.mean())
    for ratio in (found.low, found.high):
        assert scipy.stats.ttest_rel(part, ratio * whole).pvalue == pytest.approx(0.05, abs=1e-6)
    assert found.low < found.mean < found.high
    assert statistics.share(part, np.array([0.1, -0.1, 0.1, -0.1])) is None


def test_A2_holm_stops_at_the_first_that_does_not_reject():
    # Of four: 0.05 / 4 = 0.0125, 0.05 / 3 = 0.0167, then 0.03 > 0.05 / 2 ends it.
    assert statistics.holm([0.03, 0.01, 0.04, 0.015]) == [False, True, False, True]
    assert statistics.holm([0.013, 0.013, 0.013, 0.013]) == [False] * 4
