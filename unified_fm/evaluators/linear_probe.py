"""Linear probe: a logistic regression on frozen features, against the majority class.

A real linear probe (the published system's "linear evaluation" is a five-layer network): the
features are standardised with the training set's mean and deviation, and the convex problem
mean cross-entropy + decay/2 |W|^2 is solved by Newton's method in float64, so nothing is tuned and
nothing is random. `unified-fm probe` solves the same problem, with C chosen on validation data.
"""

import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from unified_fm.evaluators import base
from unified_fm.evaluators._labelled import Labelled
from unified_fm.tasks._probes import regression

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
        classes = int(max(known_labels.max(), labels.max())) + 1
        guesses = self.guesses(known, known_labels, asked, classes)
        yield self.accuracy("accuracy", guesses, labels, known_labels)

    def guesses(
        self, known: np.ndarray, labels: np.ndarray, asked: np.ndarray, classes: int
    ) -> np.ndarray:
        """The classes i[M] that a probe of features f[N D] with labels i[N] gives others f[M D]."""
        known, asked = known.astype(np.float64), asked.astype(np.float64)
        mean, deviation = known.mean(axis=0), known.std(axis=0) + 1e-6
        features, progress = (known - mean) / deviation, self.passes.progress
        probe = regression.fit(features, labels, classes, self.decay, self.steps, progress)
        if not probe.solved:
            _log.warning(
                "linear probe on %s: after %d steps the weights may be %.1e of their length away "
                "from the solution (asked for: 1e-6); more steps, or more decay, bring them closer",
                self.source,
                self.steps,
                probe.distance,
            )
        return probe.logits((asked - mean) / deviation).argmax(axis=1)
