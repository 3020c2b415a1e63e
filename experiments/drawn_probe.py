"""A linear probe that learns from few examples, drawn several times from all that are asked about.

Which few they are moves its accuracy more than a paired difference of two models, so it is the mean
over the draws. A draw is the same records for every model.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from unified_fm.evaluators import base, linear_probe


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(linear_probe.Evaluator):
    """The mean accuracy on the rest of `source`, of a probe that learnt from a drawn part of it.

    Attributes:
        train_examples: how many are drawn to learn from; all others are asked about.
        draws: how often.
    """

    train_source: str = ""  # there is none: what is learnt from is drawn from `source`
    draws: int = 4

    @property
    def sources(self) -> Sequence[str]:
        """Where all examples come from."""
        return (self.source,)

    def run(self, apply: base.Apply, params: Any) -> Iterator[base.Metric]:
        """Yields the mean accuracy.

        Raises:
            ValueError: no example is left to ask about.
        """
        features, labels = self.features(apply, params, self.source, self.num_examples)
        if self.train_examples >= len(labels):
            raise ValueError(
                f"drawn_probe: {self.train_examples} of {len(labels)} examples of {self.source!r} "
                "are to be learnt from, which leaves none to ask about"
            )
        classes = int(labels.max()) + 1
        parts = [self._one(features, labels, draw, classes) for draw in range(self.draws)]
        yield parts[0]._replace(
            value=float(np.mean([part.value for part in parts])),
            chance=float(np.mean([part.chance or 0.0 for part in parts])),
            error=None,  # the draws share most of what they are asked about
            how=f"{self.draws} draws of {self.train_examples} to learn from",
        )

    def _one(self, features, labels, draw, classes) -> base.Metric:
        order = np.random.default_rng([self.seed, draw]).permutation(len(labels))
        known, asked = order[: self.train_examples], order[self.train_examples :]
        guesses = self.guesses(features[known], labels[known], features[asked], classes)
        return self.accuracy("accuracy", guesses, labels[asked], labels[known])
