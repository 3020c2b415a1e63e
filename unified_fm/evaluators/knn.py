"""Classification of frozen features by their nearest neighbours, against the majority class.

Needs no training: every test image takes the vote of the k training images whose features have the
largest cosine with its own, each vote weighted by exp(cosine / 0.07).
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from unified_fm.evaluators import base
from unified_fm.evaluators._labelled import Labelled

_AT_ONCE = 1024  # rows asked, whose similarities with all the known ones are in memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Labelled):
    """k-nearest-neighbour accuracy.

    Attributes:
        neighbours: k.
        temperature: of the votes.
    """

    neighbours: int = 20
    temperature: float = 0.07

    metric_names = ("knn_accuracy",)

    def run(self, apply: base.Apply, params: Any) -> Iterator[base.Metric]:
        """Yields the accuracy on `source`."""
        known, seen = self.features(apply, params, self.train_source, self.train_examples)
        asked, labels = self.features(apply, params, self.source, self.num_examples)
        guesses = votes(known, seen, asked, self.neighbours, self.temperature, self.passes.progress)
        yield self.accuracy("knn_accuracy", guesses, labels, seen)


def votes(
    known: np.ndarray,
    known_labels: np.ndarray,
    asked: np.ndarray,
    k: int,
    temperature: float,
    progress: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """What `vote` says of any number of rows, a thousand at a time; `progress` after each."""
    parts = []
    for start in range(0, len(asked), _AT_ONCE):
        some = asked[start : start + _AT_ONCE]
        parts.append(vote(known, known_labels, some, k, temperature))
        progress()
    return np.concatenate(parts)


def vote(
    known: np.ndarray, known_labels: np.ndarray, asked: np.ndarray, k: int, temperature: float
) -> np.ndarray:
    """The label i[Q] that the k most similar of known f[N D] give to each of asked f[Q D]."""
    k = min(k, len(known))
    cosine = _normalised(asked) @ _normalised(known).T  # f[Q N]
    nearest = np.argpartition(-cosine, k - 1, axis=1)[:, :k]
    weight = np.exp(np.take_along_axis(cosine, nearest, axis=1) / temperature)
    votes = np.zeros((len(asked), known_labels.max() + 1))
    np.add.at(votes, (np.arange(len(asked))[:, None], known_labels[nearest]), weight)
    return votes.argmax(axis=1)


def _normalised(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
