"""Linear probe: a logistic regression on frozen features, against the majority class.

A real linear probe (the published system's "linear evaluation" is a five-layer network): the
features are standardised with the training set's mean and deviation, and the convex problem
mean cross-entropy + decay/2 |W|^2 is solved by Newton's method in float64, so nothing is tuned and
nothing is random. Features of a trained encoder are far from independent; a plain descent would
stop long before the solution, at other predictions.
"""

import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import special

from unified_fm.evaluators import base
from unified_fm.evaluators._labelled import Labelled

_CLOSE = 1e-6  # relative distance to the solution
_PRODUCTS = 200  # with the curvature, in one Newton step
_HALVINGS = 40  # of a Newton step that is too long

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Labelled):
    """Accuracy of the probe on `source`, trained on `train_source`.

    A probe that is not solved to 1e-6 is a warning in the log that says how far it may be off.

    Attributes:
        decay: weight of the squared norm of the probe's matrix, above 0.
        steps: of Newton's method, at most; about ten are needed.
    """

    decay: float = 1e-3
    steps: int = 100

    def __post_init__(self) -> None:
        if not self.decay > 0:
            raise ValueError(
                f"linear_probe: decay is {self.decay}; it must be above 0, or classes that can be "
                "told apart have no solution"
            )

    metric_names = ("accuracy",)

    def run(self, apply: base.Apply, params: Any) -> Iterator[base.Metric]:
        """Yields the accuracy on `source`."""
        known, known_labels = self.features(apply, params, self.train_source, self.train_examples)
        asked, labels = self.features(apply, params, self.source, self.num_examples)
        known, asked = known.astype(np.float64), asked.astype(np.float64)
        mean, deviation = known.mean(axis=0), known.std(axis=0) + 1e-6
        classes = int(max(known_labels.max(), labels.max())) + 1
        features, progress = (known - mean) / deviation, self.passes.progress
        probe = fit(features, known_labels, classes, self.decay, self.steps, progress)
        if probe.distance > _CLOSE:
            _log.warning(
                "linear probe on %s: after %d steps the weights may be %.1e of their length away "
                "from the solution (asked for: %.0e); more steps, or more decay, bring them closer",
                self.source,
                self.steps,
                probe.distance,
                _CLOSE,
            )
        guesses = ((asked - mean) / deviation @ probe.weights + probe.bias).argmax(axis=1)
        yield self.accuracy("accuracy", guesses, labels, known_labels)


class Fit(NamedTuple):
    """A fitted probe.

    Attributes:
        weights: f64[D classes].
        bias: f64[classes].
        distance: how far the weights are from the solution at most, relative to their length.
    """

    weights: np.ndarray
    bias: np.ndarray
    distance: float


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    decay: float,
    steps: int,
    progress: Callable[[], None] = lambda: None,
) -> Fit:
    """Multinomial logistic regression: mean cross-entropy + decay/2 |W|^2, the bias free.

    Of features f[N D] and labels i[N] below `classes`, in at most `steps` Newton steps; `progress`
    is called before every product with the features.
    """
    features = np.asarray(features, np.float64)
    # In the directions of the features' spread, each divided by about the root of its curvature:
    # then the problem is equally curved in all, and conjugate gradients need few products.
    spread, turn = np.linalg.eigh(features.T @ features / len(features))
    scale = turn / np.sqrt(np.maximum(spread, 0.0) / 4 + decay)
    rows = np.concatenate([features @ scale, np.ones((len(features), 1))], axis=1)
    decays = np.append(decay * (scale**2).sum(axis=0), 0.0)[:, None]
    problem = _Problem(rows, np.eye(classes)[labels], decays, progress)

    def distance(slope, solved):
        """The curvature is at least `decay`, so a slope of g is at most g / decay away."""
        back = slope[:-1] / np.sqrt((scale**2).sum(axis=0))[:, None]
        size = np.linalg.norm(scale @ solved[:-1])
        whole = np.hypot(np.linalg.norm(back), np.linalg.norm(slope[-1]))
        return whole / decay / max(size, 1e-12)

    solved = np.zeros((rows.shape[1], classes))
    for _ in range(steps):
        value, slope, curvature = problem.at(solved)
        if distance(slope, solved) <= _CLOSE:
            break
        solved = _step(problem, solved, value, slope, curvature)
    return Fit(scale @ solved[:-1], solved[-1], float(distance(problem.at(solved)[1], solved)))


class _Problem(NamedTuple):
    """mean cross-entropy of soft-max(rows V) + 1/2 sum of decays V^2."""

    rows: np.ndarray  # f[N D+1]
    target: np.ndarray  # f[N classes], one-hot
    decays: np.ndarray  # f[D+1 1]
    progress: Callable[[], None]

    def value(self, v: np.ndarray) -> float:
        self.progress()
        logs = special.log_softmax(self.rows @ v, axis=1)
        return -(self.target * logs).sum() / len(logs) + (self.decays * v**2).sum() / 2

    def at(self, v: np.ndarray) -> tuple[float, np.ndarray, Callable]:
        """(value, slope f[D+1 classes], direction -> curvature times direction)."""
        rows, count = self.rows, len(self.rows)
        chances = special.softmax(rows @ v, axis=1)
        slope = rows.T @ (chances - self.target) / count + self.decays * v

        def curvature(direction):
            self.progress()
            moved = chances * (rows @ direction)
            moved -= chances * moved.sum(axis=1, keepdims=True)
            return rows.T @ moved / count + self.decays * direction

        return self.value(v), slope, curvature


def _step(problem, solved, value, slope, curvature):
    """The next point: a Newton step, halved until the value falls."""
    direction = _conjugate_gradients(curvature, -slope)
    along = (slope * direction).sum()
    rounding = 1e-14 * abs(value)
    for halving in range(_HALVINGS):
        further = solved + direction / 2**halving
        if problem.value(further) <= value + 1e-4 * along / 2**halving + rounding:
            return further
    return solved


def _conjugate_gradients(curvature: Callable, right: np.ndarray) -> np.ndarray:
    """Solves `curvature(x) = right` as closely as a Newton step from here deserves."""
    x, rest, towards = np.zeros_like(right), right, right
    square = first = (rest**2).sum()
    # The closer to the solution, the better: so the last steps converge faster than linearly.
    enough = first * min(0.25, np.sqrt(first)) ** 2
    for _ in range(_PRODUCTS):
        if square <= enough:
            break
        product = curvature(towards)
        bend = (towards * product).sum()
        if bend <= 0:  # only by rounding: the problem is convex
            break
        x = x + square / bend * towards
        rest = rest - square / bend * product
        square, before = (rest**2).sum(), square
        towards = rest + square / before * towards
    return x
