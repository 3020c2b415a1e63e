"""Accuracy of the image head on held-out labelled images, against the majority class."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from unified_fm.evaluators import base
from unified_fm.evaluators._labelled import Labelled


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(Labelled):
    """The share of images whose most probable class is theirs; the training images are counted."""

    metric_names = ("accuracy",)

    def run(self, apply: base.Apply, params: Any) -> Iterator[base.Metric]:
        """Yields the accuracy on `source`."""
        found = self.ask(apply, _guesses, params, self.load().arrays, keep=("label",))
        known = [
            record["label"]
            for _, record in self.records(self.train_source, self.train_examples)
            if "label" in record
        ]
        known = self.passes.processes.gather({"label": np.array(known)} if known else {})
        yield self.accuracy("accuracy", found["guess"], found["label"], known["label"])


def _guesses(net, batch):
    """The most probable class of each image, i32[B]."""
    return {"guess": net.image_head(net({"image": batch["image"]}).image[:, 0]).argmax(-1)}
