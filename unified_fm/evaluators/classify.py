"""Accuracy of the image head on held-out labelled images, against the majority class."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from unified_fm.evaluators import base
from unified_fm.evaluators.base import Metric


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(base.HeldOut):
    """The share of images whose most probable class is theirs.

    Attributes:
        train_source: source string of the training images, to know their commonest class.
        train_examples: how many of them are counted.
    """

    train_source: str
    pipeline: str = "classify"
    train_examples: int = 5000

    @property
    def metric_names(self) -> tuple[str, ...]:
        """What `run` yields."""
        return ("accuracy",)

    def run(self, apply: base.Apply, params: Any) -> Iterator[Metric]:
        """Yields the accuracy on `source`."""
        self.examples.clear()
        rows = base.stack([arrays for _, arrays in self.load()])
        labels = rows.pop("label")
        guesses = base.in_batches(apply, _guesses, params, rows, self.batch_size)
        known = [
            record["label"]
            for _, record in self.records(self.train_source, self.train_examples)
            if "label" in record
        ]
        values, counts = np.unique(known, return_counts=True)
        yield base.share(
            "accuracy",
            guesses == labels,
            chance=float((labels == values[counts.argmax()]).mean()),
            chance_is=f"majority of {len(values)} classes",
        )


def _guesses(net, batch):
    """The most probable class of each image, i32[B]."""
    return net.image_head(net({"image": batch["image"]}).image[:, 0]).argmax(-1)
