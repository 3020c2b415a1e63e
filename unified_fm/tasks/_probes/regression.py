"""Multinomial logistic regression of frozen features: one problem, and two ways to solve it.

mean cross-entropy + decay/2 |W|^2, the bias free. In scikit-learn's words decay = 1/(C N); of two
classes its C is twice ours, since it has one vector where a soft-max has two.

Features of a trained encoder are far from independent, so a plain descent stops long before the
solution. Both ways therefore go along the directions in which the features spread, each divided by
about the root of its curvature: there all directions are about equally curved. Everything is
float64; features are read in blocks, so that those of a million images need no second copy.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from scipy import optimize

_CLOSE = 1e-6  # relative distance to the solution, of Newton's method
_PRODUCTS = 200  # with the curvature, in one Newton step
_HALVINGS = 40  # of a Newton step that is too long
_BLOCK = 2**22  # numbers of the features that are looked at at once
_SLOPE = 1e-7  # below which L-BFGS stops, in the coordinates of about equal curvature
_VALUE = 1e-13  # relative fall of the value in a step, below which it stops as well


class Fit(NamedTuple):
    """A fitted probe.

    Attributes:
        weights: f64[D classes].
        bias: f64[classes].
        distance: how far the weights are from the solution at most, relative to their length.
        steps: that were taken.
    """

    weights: np.ndarray
    bias: np.ndarray
    distance: float
    steps: int

    def logits(self, features: np.ndarray) -> np.ndarray:
        """f64[N classes] of features f[N D]."""
        return features @ self.weights + self.bias

    @property
    def solved(self) -> bool:
        """Whether it is the solution, to 1e-6 of its length."""
        return self.distance <= _CLOSE


class Data:
    """What a regression is of, and the directions in which its features spread."""

    def __init__(
        self,
        features: np.ndarray,
        labels: np.ndarray,
        classes: int,
        progress: Callable[[], None] = lambda: None,
    ):
        """Looks at the features once.

        Args:
            features: f[N D].
            labels: i[N], below `classes`.
            classes: their number.
            progress: called before every product with the features.
        """
        self.features, self.labels, self.classes = np.asarray(features), labels, classes
        self.progress = progress
        # The bias is free, so features less their mean are the same problem, better conditioned.
        self.mean = self.features.mean(axis=0, dtype=np.float64)
        width = self.features.shape[1]
        square = np.zeros((width, width))
        for rows, _ in self.blocks():
            centred = rows - self.mean
            square += centred.T @ centred
        self.spread, self.turn = np.linalg.eigh(square / len(self.features))

    def __len__(self) -> int:
        return len(self.features)

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (features f64[B D], labels i[B]), one block after the other."""
        rows = max(1, _BLOCK // max(self.features.shape[1], self.classes))
        for start in range(0, len(self.features), rows):
            block = self.features[start : start + rows].astype(np.float64, copy=False)
            yield block, self.labels[start : start + rows]


class Problem:
    """The function of v f64[D+1 classes] that is to be smallest.

    W = scale v[:-1], and v[-1] is the bias of features less their mean.
    """

    def __init__(self, data: Data, decay: float):
        """Raises ValueError: `decay` is not above 0, so there may be no solution."""
        if not decay > 0:
            raise ValueError(f"decay is {decay}; it must be above 0")
        self.data, self.decay = data, decay
        self._root = np.sqrt(np.maximum(data.spread, 0.0) / 4 + decay)
        self._scale = data.turn / self._root
        self._decays = np.append(decay / self._root**2, 0.0)[:, None]

    def of(self, weights: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """The v of weights f64[D classes] and a bias f64[classes]."""
        first = (self.data.turn.T @ weights) * self._root[:, None]
        return np.concatenate([first, (bias + self.data.mean @ weights)[None]])

    def back(self, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(weights, bias) of a v."""
        weights = self._scale @ v[:-1]
        return weights, v[-1] - self.data.mean @ weights

    def at(self, v: np.ndarray, keep: list[np.ndarray] | None = None) -> tuple[float, np.ndarray]:
        """(value, slope f64[D+1 classes]); `keep` is given the probabilities of each block."""
        weights, bias = self.back(v)
        self.data.progress()
        value = 0.0
        slope, sums = np.zeros_like(weights), np.zeros_like(bias)
        for rows, labels in self.data.blocks():
            logits = rows @ weights + bias
            logits -= logits.max(axis=1, keepdims=True)
            powers = np.exp(logits)
            total = powers.sum(axis=1, keepdims=True)
            own = np.arange(len(labels)), labels
            value += float(np.log(total).sum() - logits[own].sum())
            powers /= total
            if keep is not None:
                keep.append(powers.copy())
            powers[own] -= 1
            slope += rows.T @ powers
            sums += powers.sum(axis=0)
        slope = self._turned(slope, sums) + self._decays * v
        return value / len(self.data) + float((self._decays * v**2).sum()) / 2, slope

    def curvature(self, kept: list[np.ndarray], direction: np.ndarray) -> np.ndarray:
        """The curvature, where `at` has kept the probabilities, times a direction."""
        self.data.progress()
        weights, bias = self.back(direction)
        product, sums = np.zeros_like(weights), np.zeros_like(bias)
        for (rows, _), chances in zip(self.data.blocks(), kept, strict=True):
            moved = chances * (rows @ weights + bias)
            moved -= chances * moved.sum(axis=1, keepdims=True)
            product += rows.T @ moved
            sums += moved.sum(axis=0)
        return self._turned(product, sums) + self._decays * direction

    def distance(self, slope: np.ndarray, v: np.ndarray) -> float:
        """How far v is from the solution at most, by its length.

        The curvature is at least `decay`, so a slope of g is at most g / decay away.
        """
        back = slope[:-1] * self._root[:, None]
        whole = np.hypot(np.linalg.norm(back), np.linalg.norm(slope[-1]))
        size = np.linalg.norm(self._scale @ v[:-1])
        return float(whole / self.decay / max(size, 1e-12))

    def _turned(self, product: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """A slope by W and the bias as one by v, over the number of rows."""
        first = self._scale.T @ (product - np.outer(self.data.mean, sums))
        return np.concatenate([first, sums[None]]) / len(self.data)


def loss(
    features: np.ndarray, labels: np.ndarray, weights: np.ndarray, bias: np.ndarray, decay: float
) -> float:
    """mean cross-entropy + decay/2 |W|^2 of features f[N D] and labels i[N]."""
    problem = Problem(Data(features, labels, weights.shape[1]), decay)
    return problem.at(problem.of(weights, bias))[0]


def descend(data: Data, decay: float, steps: int, start: Fit | None = None) -> Fit:
    """Solves by L-BFGS, in at most `steps` steps.

    Args:
        data: features and labels.
        decay: weight of the squared norm of the matrix, above 0.
        steps: at most.
        start: a fit of about this decay, from which it is not far.
    """
    problem = Problem(data, decay)
    shape = (data.features.shape[1] + 1, data.classes)
    first = np.zeros(shape) if start is None else problem.of(start.weights, start.bias)

    def at(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, slope = problem.at(flat.reshape(shape))
        return value, slope.ravel()

    options = {"maxiter": steps, "maxfun": 2 * steps, "ftol": _VALUE, "gtol": _SLOPE, "maxcor": 20}
    found = optimize.minimize(at, first.ravel(), jac=True, method="L-BFGS-B", options=options)
    v = found.x.reshape(shape)
    return Fit(*problem.back(v), problem.distance(found.jac.reshape(shape), v), int(found.nit))


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    decay: float,
    steps: int,
    progress: Callable[[], None] = lambda: None,
) -> Fit:
    """Solves by Newton's method, in at most `steps` steps, to 1e-6 of the weights' length.

    It keeps the probabilities f64[N classes] of all rows.

    Args:
        features: f[N D].
        labels: i[N], below `classes`.
        classes: their number.
        decay: weight of the squared norm of the matrix, above 0.
        steps: at most; about ten are needed.
        progress: called before every product with the features.
    """
    problem = Problem(Data(features, labels, classes, progress), decay)
    solved = np.zeros((problem.data.features.shape[1] + 1, classes))
    for step in range(steps + 1):
        chances: list[np.ndarray] = []
        value, slope = problem.at(solved, chances)
        distance = problem.distance(slope, solved)
        if distance <= _CLOSE or step == steps:
            break
        solved = _step(problem, solved, value, slope, functools.partial(problem.curvature, chances))
    return Fit(*problem.back(solved), distance, step)


def _step(problem, solved, value, slope, curvature):
    """The next point: a Newton step, halved until the value falls."""
    direction = _conjugate_gradients(curvature, -slope)
    along = (slope * direction).sum()
    rounding = 1e-14 * abs(value)
    for halving in range(_HALVINGS):
        further = solved + direction / 2**halving
        if problem.at(further)[0] <= value + 1e-4 * along / 2**halving + rounding:
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
