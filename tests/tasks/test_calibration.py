"""Bins of confidence against a loop, and temperatures that are known."""

import numpy as np
import pytest

from unified_fm.tasks._metrics import calibration


def test_bins_and_their_error_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    confidence = np.concatenate([rng.random(500), [0.0, 1.0, 1 / 15]])
    right = rng.random(503) < confidence**2
    found = calibration.binned(confidence, right)

    error, members = 0.0, [[] for _ in range(15)]
    for sure, hit in zip(confidence, right, strict=True):
        number = next(m for m in range(15) if sure <= (m + 1) / 15)
        members[number].append((sure, hit))
    for number, inside in enumerate(members):
        sure, hit = np.mean(inside, axis=0)
        assert found.count[number] == len(inside)
        assert (found.confidence[number], found.accuracy[number]) == pytest.approx((sure, hit))
        error += len(inside) / 503 * abs(sure - hit)
    assert calibration.expected_error(found) == pytest.approx(error)


def test_four_answers_by_hand():
    """Two of 0.9 are both right: 0.1 off; of two of 0.6 one is: 0.1 off, too."""
    found = calibration.binned(np.array([0.9, 0.9, 0.6, 0.6]), np.array([1, 1, 0, 1], bool), 10)
    assert found.count.tolist() == [0] * 5 + [2, 0, 0, 2, 0]
    assert found.accuracy[[5, 8]].tolist() == [0.5, 1.0]
    assert calibration.expected_error(found) == pytest.approx(0.1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_a_known_temperature_is_found_again(temperature):
    """Answers are drawn from softmax(logits / T)."""
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(40_000, 10)) * 2 * temperature
    answers = (logits / temperature + rng.gumbel(size=logits.shape)).argmax(1)

    def slopes(inverse):
        shares = np.exp(inverse * logits)
        shares /= shares.sum(1, keepdims=True)
        mean = (shares * logits).sum(1)
        own = logits[np.arange(len(logits)), answers]
        variance = (shares * logits**2).sum(1) - mean**2
        return (mean - own).mean(), variance.mean()

    assert 1 / calibration.minimum(slopes) == pytest.approx(temperature, rel=0.02)


def test_newtons_steps_stay_inside_the_bracket():
    """(x - 3)^4, whose steps are short; and functions that fall or rise everywhere."""
    assert calibration.minimum(lambda x: (4 * (x - 3) ** 3, 12 * (x - 3) ** 2)) == pytest.approx(
        3, abs=0.01
    )
    assert calibration.minimum(lambda x: (-1.0, 0.0)) == pytest.approx(64, rel=1e-3)
    assert calibration.minimum(lambda x: (1.0, 0.0)) == pytest.approx(1 / 64, rel=1e-3)
