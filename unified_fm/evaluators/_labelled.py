"""What is measured on labelled records beside always guessing the commonest label."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from unified_fm.evaluators import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled(base.Compared):
    """Two sets of labelled records: one to learn from, one to ask."""

    pipeline: str = "classify"

    def features(
        self, apply: base.Apply, params: Any, source: str, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Frozen features f[N D] of the first `count` records of a source, and their labels i[N].

        The feature is the encoder's summary of the image (slot 0), or of the text (first token).
        """
        rows = self.load(source, count).arrays
        fn = _image_features if "image" in rows else _text_features
        found = self.ask(apply, fn, params, rows, keep=("label",))
        return found["features"], found["label"]

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


def _image_features(net, batch):
    """Slot 0 of the vision encoder, f32[B D]."""
    return {"features": net({"image": batch["image"]}).image[:, 0].astype(jnp.float32)}


def _text_features(net, batch):
    """The first token of the language encoder, f32[B D]."""
    return {"features": net(base.text_of(batch)).text[:, 0].astype(jnp.float32)}
