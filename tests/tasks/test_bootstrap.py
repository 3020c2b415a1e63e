"""Intervals against drawing by hand, and tests of differences against SciPy."""

import numpy as np
import pytest
from scipy import stats

from unified_fm.tasks._metrics import bootstrap, classification, correlation, statistic


def drawn_by_hand(values, measure, resamples=2000):
    """Percentiles of a measure of examples drawn with replacement, one draw after the other."""
    rng = np.random.default_rng(7)
    found = [measure(values[rng.integers(len(values), size=len(values))]) for _ in range(resamples)]
    return np.percentile(found, [2.5, 97.5])


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 120)
    said = np.where(rng.random(120) < 0.8, truth, 1 - truth)
    return np.stack([said, truth], axis=1)


def test_a_mean_is_drawn_as_by_hand():
    values = np.random.default_rng(0).exponential(size=80)
    found = bootstrap.interval(statistic.mean(values))
    assert (found.value, found.how) == (pytest.approx(values.mean()), "bootstrap of 80 examples")
    low, high = drawn_by_hand(values, np.mean)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (classification.f1, lambda p: 2 * (p.sum(1) == 2).sum() / p.sum()),
        (classification.matthews, lambda p: np.corrcoef(p.T)[0, 1]),
    ],
)
def test_pairs_are_drawn_together(ours, theirs, pairs):
    found = bootstrap.interval(ours(pairs[:, 0].tolist(), pairs[:, 1].tolist(), 1))
    assert found.value == pytest.approx(theirs(pairs))
    low, high = drawn_by_hand(pairs, theirs)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.02)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(correlation.pearson, stats.pearsonr), (correlation.spearman, stats.spearmanr)],
)
def test_correlations_are_computed_anew_on_each_draw(ours, theirs):
    rng = np.random.default_rng(3)
    x = np.round(rng.normal(size=60), 1)  # some ties
    y = np.round(x + rng.normal(size=60), 1)
    found = bootstrap.interval(ours(x, y), resamples=2000)
    assert found.value == pytest.approx(theirs(x, y)[0])
    low, high = drawn_by_hand(np.stack([x, y], 1), lambda p: theirs(*p.T)[0], resamples=500)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.05)


def test_questions_of_one_image_are_drawn_together():
    """Ten questions of each image share their answer: the interval is that of 40 examples."""
    hits = np.random.default_rng(0).random(40) < 0.6
    images = np.repeat(np.arange(40), 10)
    together = bootstrap.interval(statistic.share(hits[images]), units=images, unit="images")
    apart = bootstrap.interval(statistic.share(hits[images]))
    low, high = drawn_by_hand(hits.astype(float), np.mean)
    assert (together.low, together.high) == pytest.approx((low, high), abs=0.03)
    assert together.how == "bootstrap of 40 images"
    assert apart.high - apart.low < 0.5 * (together.high - together.low)


def test_wilson_is_scipys_and_holds_at_the_ends():
    for hits, total in [(0, 10), (3, 10), (10, 10), (4321, 5000)]:
        expected = stats.binomtest(hits, total).proportion_ci(method="wilson")
        assert bootstrap.wilson(hits, total) == pytest.approx((expected.low, expected.high))
    found = bootstrap.interval(statistic.share(np.ones(20)))
    assert (found.how, found.high) == ("Wilson", 1.0)
    assert found.low == pytest.approx(0.8389, abs=1e-4)


def test_a_paired_difference_is_narrower_than_two_intervals():
    rng = np.random.default_rng(0)
    hard = rng.random(500)
    ours, theirs = (hard < 0.70) * 1.0, (hard < 0.66) * 1.0  # ours is right wherever theirs is
    found = bootstrap.difference(statistic.share(ours), statistic.share(theirs))
    values = ours - theirs
    low, high = drawn_by_hand(values, np.mean)
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.004)
    assert found.excludes_zero
    alone = [bootstrap.interval(statistic.share(x)) for x in (ours, theirs)]
    assert alone[1].high > alone[0].low  # and yet they overlap


def test_a_seed_gives_the_same_interval_every_time():
    values = statistic.mean(np.random.default_rng(0).normal(size=50))
    assert bootstrap.interval(values, seed=1) == bootstrap.interval(values, seed=1)
    assert bootstrap.interval(values, seed=1) != bootstrap.interval(values, seed=2)


def test_mcnemar_is_the_exact_binomial_test():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.random((2, 60)) < rng.random((2, 1))
        wins, losses = int((a & ~b).sum()), int((b & ~a).sum())
        expected = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
        assert bootstrap.mcnemar(a, b) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "low", "high", "p"),
    [
        (1.0, 0.0, 9.0, 0.05),  # the end at 0 is just on the edge
        (-1.0, -9.0, 0.0, 0.05),
        (2.0, 1.0, 3.0, 8.857e-05),  # 3.92 standard errors
        (0.5, -0.5, 0.6, 0.32709),  # 0.98 of them
        (0.0, -1.0, 1.0, 1.0),
        (0.3, 0.3, 0.3, 0.0),
    ],
)
def test_a_p_is_told_by_an_interval(value, low, high, p):
    assert bootstrap.p_of(value, low, high) == pytest.approx(p, rel=1e-3)


def test_holm_of_four_by_hand():
    found = bootstrap.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})


def test_units_must_fit_and_rows_must_add_up():
    with pytest.raises(ValueError, match="2 units for 3 examples"):
        bootstrap.interval(statistic.mean([1, 2, 3]), units=["a", "b"])
    with pytest.raises(ValueError, match="cannot be drawn by units"):
        bootstrap.interval(correlation.spearman([1, 2, 3], [1, 2, 4]), units=["a", "a", "b"])
    with pytest.raises(ValueError, match="the same examples; found 2 and 3"):
        bootstrap.difference(statistic.mean([1, 2]), statistic.mean([1, 2, 3]))


def test_only_a_mean_has_values_of_examples():
    assert statistic.mean([1, 2, 4]).per_example.tolist() == [1, 2, 4]
    with pytest.raises(ValueError, match="no mean over examples"):
        _ = classification.f1([1, 0], [1, 1], 1).per_example
    with pytest.raises(ValueError, match="of N > 0 examples"):
        statistic.mean([])
