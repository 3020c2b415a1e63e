"""CLIP's linear probe: logistic regression of frozen features, with C chosen on validation data.

The sum of losses times C + |W|^2 / 2 is made smallest, as scikit-learn has it. C is one of 1e-6,
1e-4, ... 1e6; then the steps around the best are halved four times, to an eighth of a decade, which
is the grid of 96 values that CLIP sweeps. Every fit starts from that of the nearest C. The chosen C
is fitted once more to training and validation data together. Nothing is augmented, nothing drawn.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from unified_fm.tasks._probes import regression

COARSE = tuple(range(-6, 7, 2))  # exponents of C
HALVINGS = 4
STEPS = 1000  # of L-BFGS, as published

Measure = Callable[[np.ndarray, np.ndarray], float]  # (predicted i[N], true i[N]) -> how good


class Tried(NamedTuple):
    """A value of C, and what it reached on the validation data."""

    c: float
    score: float
    steps: int

    @property
    def converged(self) -> bool:
        """Whether the fit ended by itself."""
        return self.steps < STEPS


class Probe(NamedTuple):
    """A linear classifier of features.

    Attributes:
        fit: of features less `mean`, over `deviation`.
        mean, deviation: f64[D], or None where features are taken as they are.
        c: the chosen one.
        tried: all of them, in the order of C.
    """

    fit: regression.Fit
    mean: np.ndarray | None
    deviation: np.ndarray | None
    c: float
    tried: Sequence[Tried]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """f64[N classes] of features f[N D]."""
        return self.fit.logits(_scaled(features, self.mean, self.deviation))


def probe(
    train: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    classes: int,
    measure: Measure,
    *,
    standardise: bool = False,
    told: Callable[[Tried], None] = lambda tried: None,
) -> Probe:
    """Chooses C, and fits it to all.

    Args:
        train: features f[N D] and labels i[N] to fit each C to.
        validation: features and labels, of which the measure is to be highest. A label that is not
            below `classes` is of a class that training has not.
        classes: of the training data.
        measure: of predicted and true labels.
        standardise: features less the mean of the training data over its deviation. CLIP does not.
        told: called after each C.
    """
    mean, deviation = _standard(train[0], standardise)
    data = regression.Data(_scaled(train[0], mean, deviation), train[1], classes)
    asked = _scaled(validation[0], mean, deviation)
    fits: dict[float, regression.Fit] = {}  # exponent of C -> its fit
    found: dict[float, Tried] = {}
    for exponent in _exponents(found):
        fitted = regression.descend(data, _decay(exponent, data), STEPS, _near(fits, exponent))
        score = measure(fitted.logits(asked).argmax(axis=1), validation[1])
        fits[exponent] = fitted
        found[exponent] = Tried(10.0**exponent, score, fitted.steps)
        told(found[exponent])
    best = best_of(found)
    # Rows of classes that training lacks cannot be learnt from.
    known = validation[1] < classes
    features = np.concatenate([train[0], validation[0][known]])
    mean, deviation = _standard(features, standardise)
    labels = np.concatenate([train[1], validation[1][known]])
    both = regression.Data(_scaled(features, mean, deviation), labels, classes)
    fitted = regression.descend(both, _decay(best, both), STEPS, fits[best])
    return Probe(fitted, mean, deviation, 10.0**best, [found[e] for e in sorted(found)])


def best_of(found: dict[float, Tried]) -> float:
    """The exponent with the highest score; of equal ones the smallest, whose penalty is largest."""
    return min(found, key=lambda exponent: (-found[exponent].score, exponent))


def _exponents(found: dict[float, Tried]) -> Iterator[float]:
    """Exponents to try, by what was found of those before."""
    yield from map(float, COARSE)
    step = float(COARSE[1] - COARSE[0])
    for _ in range(HALVINGS):
        step /= 2
        best = best_of(found)
        for exponent in (best - step, best + step):
            if COARSE[0] <= exponent <= COARSE[-1] and exponent not in found:
                yield exponent


def _near(fits: dict[float, regression.Fit], exponent: float) -> regression.Fit | None:
    return fits[min(fits, key=lambda other: math.fabs(other - exponent))] if fits else None


def _decay(exponent: float, data: regression.Data) -> float:
    return 1 / (10.0**exponent * len(data))


def _scaled(features: np.ndarray, mean: Any, deviation: Any) -> np.ndarray:
    """Features less the mean over the deviation; themselves, not a copy, of (None, None)."""
    return features if mean is None else (features - mean) / deviation


def _standard(features: np.ndarray, standardise: bool) -> tuple:
    """(mean, deviation) of each column; (None, None) where features are taken as they are."""
    if not standardise:
        return None, None
    mean = features.mean(axis=0, dtype=np.float64)
    return mean, features.std(axis=0, dtype=np.float64) + 1e-6
