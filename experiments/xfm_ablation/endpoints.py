"""From what evaluators found of every run to the endpoints that the rules speak of.

Words are in nats per masked word (lower is better), probes in points. The vision-language composite
is the mean of four z-scores; see README.md.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.xfm_ablation.arms import COUNTED

WORDS, TOPICS, VISION, VL = "words", "topics", "vision", "vl"
PROBES = ("digits", "objects", "emoji")
PARTS = ("imlm", "itm", "r1", "iou")  # of the composite
COLLAPSE = "feature_sd"
# {endpoint: the metrics whose mean it is, and the factor to its unit}
_OF: Mapping[str, tuple[Sequence[str], float]] = {
    WORDS: (["words/cross_entropy"], 1.0),
    TOPICS: (["topics/accuracy"], 100.0),
    **{name: ([f"{name}/accuracy"], 100.0) for name in PROBES},
    VISION: ([f"{name}/accuracy" for name in PROBES], 100.0),
    COLLAPSE: (["spread/feature_sd"], 1.0),
    "imlm": (["imlm/object_word/accuracy"], 100.0),
    "itm": (["itm/random_caption/ranking", "itm/swapped_object/ranking"], 100.0),
    "r1": (["retrieval/image_to_text/r1", "retrieval/text_to_image/r1"], 100.0),
    "iou": (["grounding/mean_iou"], 100.0),
}
NAMES = (*_OF, VL)


class Endpoints:
    """The endpoints of every run in results.json, but for arms that are void.

    Args:
        found: what results.json holds.
        wanted: how many seeds are counted. Once every counted arm has the seeds from 0 to
            `wanted` - 1, those alone are taken of all arms; before that, and with None, all.

    Attributes:
        void: arms of which a step was not finite.
        scale: {part of the composite: its mean and standard deviation over the counted arms' runs
            that have all parts}; empty with fewer than two of them. Exploratory arms are put on
            this scale, and have no part in it.
    """

    def __init__(self, found: Mapping[str, Any], wanted: int | None = None):
        self.void = [arm for arm, entry in found["arms"].items() if entry["void"]]
        self._of = {
            arm: {seed: of_run(each["scores"]) for seed, each in entry["seeds"].items()}
            for arm, entry in found["arms"].items()
            if arm not in self.void
        }
        if wanted is not None and self.complete >= wanted:
            counted = [str(seed) for seed in range(wanted)]
            self._of = {
                arm: {seed: of[seed] for seed in counted if seed in of}
                for arm, of in self._of.items()
            }
        runs = [run for arm in COUNTED for run in self._of.get(arm, {}).values()]
        parts = np.array([[run[p] for p in PARTS] for run in runs if {*PARTS} <= run.keys()])
        self.scale: dict[str, tuple[float, float]] = {}
        if len(parts) > 1:
            numbers = zip(parts.mean(axis=0).tolist(), parts.std(axis=0).tolist(), strict=True)
            self.scale = dict(zip(PARTS, numbers, strict=True))
        for seeds in self._of.values():
            for run in seeds.values():
                if self.scale and {*PARTS} <= run.keys():
                    run[VL] = self._composite(run)

    @property
    def arms(self) -> list[str]:
        """Those that are not void."""
        return [arm for arm, seeds in self._of.items() if seeds]

    @property
    def complete(self) -> int:
        """Seeds, from 0 on, that every counted arm has that is not void."""
        wanted = [self._of.get(arm, {}).keys() for arm in COUNTED if arm not in self.void]
        everywhere = set.intersection(*map(set, wanted)) if wanted else set()
        return next(n for n in itertools.count() if str(n) not in everywhere)

    def of(self, arm: str, endpoint: str) -> list[float]:
        """Of all seeds of an arm; none if it has no such endpoint."""
        return [run[endpoint] for run in self._of.get(arm, {}).values() if endpoint in run]

    def values(self, endpoint: str, factors: Mapping[str, float]) -> np.ndarray:
        """f64[n], {arm: factor} summed for each seed that all of these arms have; n may be 0."""
        runs = [self._of.get(arm, {}) for arm in factors]
        seeds = [s for s in runs[0] if all(endpoint in each.get(s, {}) for each in runs)]
        terms = list(zip(runs, factors.values(), strict=True))
        return np.array([sum(f * run[s][endpoint] for run, f in terms) for s in seeds])

    def _composite(self, run: Mapping[str, float]) -> float:
        """The mean z-score; a part in which no run differs says nothing, and counts as 0."""
        z = [(run[p] - mean) / (sd or 1.0) for p, (mean, sd) in self.scale.items()]
        return sum(z) / len(z)


def of_run(scores: Mapping[str, float]) -> dict[str, float]:
    """{endpoint: value} of what evaluators found of one run, as far as it was asked for it."""
    return {
        name: factor * sum(scores[metric] for metric in metrics) / len(metrics)
        for name, (metrics, factor) in _OF.items()
        if all(metric in scores for metric in metrics)
    }
