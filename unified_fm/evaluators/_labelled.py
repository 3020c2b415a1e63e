"""What is measured on labelled records beside always guessing the commonest label."""

import dataclasses
from typing import Any

import numpy as np

from unified_fm import queries
from unified_fm.evaluators import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(base.Compared):
    """Two sets of labelled records: one to learn from, one to ask."""

    pipeline: str = "classify"

    def features(
        self, apply: base.Apply, params: Any, source: str, count: int | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frozen features f[N D] of the first `count` records of a source, and their labels i[N].

        The feature is the encoder's summary of the image (slot 0), or of the text (first token).
        """
        rows = self.load(source, count).arrays
        fn = queries.image_summary if "image" in rows else queries.text_summary
        found = self.ask(apply, fn, params, rows, keep=("label",))
        return found["feature"], found["label"]

    def accuracy(
        self, name: str, guesses: np.ndarray, labels: np.ndarray, known: np.ndarray
    ) -> base.Metric:
        """The share of right guesses, beside always guessing the commonest of `known`."""
        values, counts = np.unique(known, return_counts=True)
        majority = values[counts.argmax()]
        return base.share(
            name,
            guesses == labels,
            chance=float((labels == majority).mean()),
            chance_is=f"majority of {len(values)} classes",
        )
