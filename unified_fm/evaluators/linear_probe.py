"""Linear probe: a logistic regression on frozen features, against the majority class.

A real linear probe (the published system's "linear evaluation" is a five-layer network): the
features are standardised with the training set's mean and deviation, and the convex problem
mean cross-entropy + decay/2 |W|^2 is solved by accelerated gradient descent from zero with the step
that the data's largest eigenvalue allows, so nothing is tuned and nothing is random.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unified_fm.evaluators import base
from unified_fm.evaluators._labelled import Labelled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Labelled):
    """Accuracy of the probe on `source`, trained on `train_source`.

    Attributes:
        decay: weight of the squared norm of the probe's matrix.
        steps: of the solver.
    """

    decay: float = 1e-3
    steps: int = 500

    metric_names = ("accuracy",)

    def run(self, apply: base.Apply, params: Any) -> Iterator[base.Metric]:
        """Yields the accuracy on `source`."""
        known, known_labels = self.features(apply, params, self.train_source, self.train_examples)
        asked, labels = self.features(apply, params, self.source, self.num_examples)
        mean, deviation = known.mean(axis=0), known.std(axis=0) + 1e-6
        classes = int(max(known_labels.max(), labels.max())) + 1
        weights, bias = fit(
            (known - mean) / deviation, known_labels, classes, self.decay, self.steps
        )
        guesses = ((asked - mean) / deviation @ weights + bias).argmax(axis=1)
        yield self.accuracy("accuracy", guesses, labels, known_labels)


def fit(
    features: np.ndarray, labels: np.ndarray, classes: int, decay: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression.

    Args:
        features: f[N D]; labels: i[N] below `classes`.
        decay: weight of |W|^2 / 2; the bias is free.
        steps: Nesterov steps.

    Returns:
        (W f[D classes], bias f[classes]).
    """
    rows = jnp.concatenate([features, jnp.ones((len(features), 1))], axis=1).astype(jnp.float32)
    # Soft-max cross-entropy is at most 1/2 as curved as the squares of its inputs.
    largest = jnp.linalg.eigvalsh(rows.T @ rows / len(rows))[-1]
    solved = _descend(rows, jnp.asarray(labels), 1 / (largest / 2 + decay), decay, classes, steps)
    solved = np.asarray(solved)
    return solved[:-1], solved[-1]


@functools.partial(jax.jit, static_argnums=(4, 5))
def _descend(rows, labels, rate, decay, classes, steps):
    target = jax.nn.one_hot(labels, classes)
    decays = jnp.full((rows.shape[1], 1), decay).at[-1].set(0.0)

    def step(carry, _):
        here, before, t = carry
        slope = rows.T @ (jax.nn.softmax(rows @ here) - target) / len(rows) + decays * here
        after = here - rate * slope
        further = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return (after + (t - 1) / further * (after - before), after, further), None

    start = jnp.zeros((rows.shape[1], classes))
    (_, solved, _), _ = jax.lax.scan(step, (start, start, jnp.ones(())), None, length=steps)
    return solved
