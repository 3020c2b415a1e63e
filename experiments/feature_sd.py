"""How far the summaries of images are apart: 0 where an encoder says the same of all (collapse).

Each summary f[D] (slot 0 of the vision encoder) is divided by its length; the measure is the mean
over the D channels of the standard deviation over images, times sqrt(D). Vectors spread evenly over
all directions have 1, equal ones 0 (Chen and He 2021, SimSiam, section 4.1).
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from unified_fm import queries
from unified_fm.evaluators import base


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluator(base.HeldOut):
    """The spread of the vision encoder's summaries of the images of `source`."""

    metric_names = ("feature_sd",)

    def run(self, apply: base.Apply, params: Any) -> Iterator[base.Metric]:
        """Yields the spread."""
        found = self.ask(apply, queries.image_summary, params, self.load().arrays)
        yield base.Metric("feature_sd", spread(found["feature"]))


def spread(features: np.ndarray) -> float:
    """Of f[N D]: sqrt(D) times the mean standard deviation of a channel; 0 of equal rows."""
    features = np.asarray(features, np.float64)
    length = np.linalg.norm(features, axis=1, keepdims=True)
    deviation = (features / np.maximum(length, 1e-12)).std(axis=0)
    return float(deviation.mean() * features.shape[1] ** 0.5)
