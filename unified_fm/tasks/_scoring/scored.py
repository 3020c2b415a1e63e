"""What a score is: numbers with their intervals, beside what a guess reaches."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unified_fm.tasks._metrics import bootstrap
from unified_fm.tasks._metrics.statistic import Statistic


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scored:
    """The metrics of one set of predictions.

    Attributes:
        counts: {what: how many} of the test set ("questions", "images"), examples first.
        statistics: the metrics, the one that stands for the task first.
        chance: of each metric, or of some.
        chance_is: which guess that is.
        units: [N] the unit that is drawn for the intervals; None: each example.
        unit: what a unit is called.
        resamples: draws of the bootstrap.
        settings: what the numbers depend on ({"version": "2021"}).
        notes: what has to be said beside them.
    """

    counts: Mapping[str, int]
    statistics: Mapping[str, Statistic]
    chance: Mapping[str, float]
    chance_is: str
    units: Sequence[Any] | np.ndarray | None = None
    unit: str = "examples"
    resamples: int = bootstrap.RESAMPLES
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: Sequence[str] = ()

    def interval(self, name: str, seed: int = 0) -> bootstrap.Interval:
        """The 95 % interval of a metric."""
        return bootstrap.interval(
            self.statistics[name],
            units=self.units,
            unit=self.unit,
            resamples=self.resamples,
            seed=seed,
        )

    def report(self, seed: int = 0) -> dict[str, Any]:
        """Everything as JSON has it; shares are 0 to 1, and given in percent beside."""
        metrics = {}
        for name, statistic in self.statistics.items():
            interval = self.interval(name, seed)
            metrics[name] = _number(statistic, interval) | {"interval": interval.how}
            if name in self.chance:
                metrics[name]["chance"] = self.chance[name]
        return {
            "n": next(iter(self.counts.values())),
            "counts": dict(self.counts),
            "headline": next(iter(self.statistics)),
            "metrics": metrics,
            "chance_is": self.chance_is,
            "settings": {**self.settings, "seed": seed},
            "notes": list(self.notes),
        }

    def against(self, other: "Scored", seed: int = 0) -> dict[str, Any]:
        """{metric: ours - theirs} on the same examples, drawn together.

        Where examples are right or wrong, one by one, McNemar's exact p is given too.
        """
        found = {}
        for name, ours in self.statistics.items():
            theirs = other.statistics[name]
            interval = bootstrap.difference(
                ours,
                theirs,
                units=self.units,
                unit=self.unit,
                resamples=self.resamples,
                seed=seed,
            )
            found[name] = _number(ours, interval) | {
                "excludes_zero": interval.excludes_zero,
                "interval": interval.how,
            }
            if self.units is None and _hits(ours) and _hits(theirs):
                p = bootstrap.mcnemar(ours.per_example == 1, theirs.per_example == 1)
                found[name]["mcnemar_p"] = p
        return found


def _number(statistic: Statistic, interval: bootstrap.Interval) -> dict[str, Any]:
    found: dict[str, Any] = {"value": interval.value, "ci95": [interval.low, interval.high]}
    if statistic.unit == "%":
        found["percent"] = f"{100 * interval.value:.2f}"
    return found


def _hits(statistic: Statistic) -> bool:
    rows = statistic.rows
    return rows.shape[1] == 2 and bool(
        np.all(rows[:, 1] == 1) and np.isin(rows[:, 0], [0, 1]).all()
    )
