"""Classification of frozen features by their nearest neighbours, against the majority class.

Needs no training: every test image takes the vote of the k training images whose features have the
largest cosine with its own, each vote weighted by exp(cosine / 0.07). The feature is the encoder's
summary of the image (slot 0), or of the text (first token).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from unified_fm.evaluators import base
from unified_fm.evaluators.base import Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(base.HeldOut):
    """Two sets of labelled records and their frozen features: one to learn from, one to ask.

    Attributes:
        train_source: source string of the records to learn from.
        train_examples: how many of them are used.
    """

    train_source: str
    pipeline: str = "classify"
    train_examples: int = 5000

    def both(self, apply: base.Apply, params: Any):
        """((features f[N D], labels i[N]) to learn from, the same to ask)."""
        return (
            self._features(apply, params, self.train_source, self.train_examples),
            self._features(apply, params, self.source, self.num_examples),
        )

    def accuracy(self, name: str, guesses: np.ndarray, known: np.ndarray, labels: np.ndarray):
        """The share of right guesses, beside always guessing the commonest label of `known`."""
        values, counts = np.unique(known, return_counts=True)
        majority = values[counts.argmax()]
        return base.share(
            name,
            guesses == labels,
            chance=float((labels == majority).mean()),
            chance_is=f"majority of {len(values)} classes",
        )

    def _features(self, apply, params, source, count):
        rows = base.stack([arrays for _, arrays in self.load_from(source, count)])
        labels = rows.pop("label")
        fn = _image_features if "image" in rows else _text_features
        return base.in_batches(apply, fn, params, rows, self.batch_size), labels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Labelled):
    """k-nearest-neighbour accuracy.

    Attributes:
        neighbours: k.
        temperature: of the votes.
    """

    neighbours: int = 20
    temperature: float = 0.07

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `run` yields."""
        return ("knn_accuracy",)

    def run(self, apply: base.Apply, params: Any) -> Iterator[Metric]:
        """Yields the accuracy on `source`."""
        self.examples.clear()
        (known, known_labels), (asked, labels) = self.both(apply, params)
        guesses = vote(known, known_labels, asked, self.neighbours, self.temperature)
        yield self.accuracy("knn_accuracy", guesses, known_labels, labels)


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


def _image_features(net, batch):
    """Slot 0 of the vision encoder, f32[B D]."""
    return net({"image": batch["image"]}).image[:, 0].astype(jnp.float32)


def _text_features(net, batch):
    """The first token of the language encoder, f32[B D]."""
    return net(base.text_of(batch)).text[:, 0].astype(jnp.float32)
