"""How sure a number is: intervals from drawing the examples again, and tests of differences.

The percentile bootstrap draws N units (examples, or images with all their captions or questions)
with replacement. Units whose rows are equal are one kind, and how often each kind is drawn is
multinomial: that is the same bootstrap, and ten thousand draws of 200,000 answers take a second.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unified_fm.tasks._metrics.statistic import Statistic, kinds

RESAMPLES = 10_000
_Z95 = 1.959963984540054  # standard normal quantile of 97.5 %
_AT_ONCE = 2**22  # numbers of one block of draws


@dataclasses.dataclass(frozen=True)
class Interval:
    """A 95 % interval.

    Attributes:
        value: the number itself.
        low, high: its ends.
        how: "bootstrap of 1000 images", "Wilson".
    """

    value: float
    low: float
    high: float
    how: str

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return not self.low <= 0 <= self.high


def interval(
    statistic: Statistic,
    *,
    units: Sequence[Any] | np.ndarray | None = None,
    unit: str = "examples",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The 95 % interval of a statistic.

    A share of plain hits and misses without units has Wilson's interval, which also holds where
    all are hits; all else is drawn again.

    Args:
        statistic: of N examples.
        units: [N], which unit each example belongs to; None: each is its own.
        unit: what a unit is called.
        resamples: draws; a thousand do for CIDEr-D and BLEU.
        seed: of the draws.

    Raises:
        ValueError: units, and a statistic whose rows cannot be added up.
    """
    if units is None and _plain_hits(statistic):
        low, high = wilson(int(statistic.rows[:, 0].sum()), len(statistic.rows))
        return Interval(statistic.value, low, high, "Wilson")
    rows = by_unit(statistic, units)
    drawn = _draw(statistic.of, rows, resamples, seed)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(statistic.value, float(low), float(high), f"bootstrap of {len(rows)} {unit}")


def difference(
    ours: Statistic,
    theirs: Statistic,
    *,
    units: Sequence[Any] | np.ndarray | None = None,
    unit: str = "examples",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The 95 % interval of ours - theirs on the same examples, which are drawn together.

    Arguments as of `interval`. Two intervals that overlap say nothing: this one does.

    Raises:
        ValueError: not of the same number of examples.
    """
    if len(ours.rows) != len(theirs.rows):
        raise ValueError(
            "a paired difference needs the same examples; found"
            f" {len(ours.rows)} and {len(theirs.rows)}"
        )
    first = ours.rows.shape[1]
    both = Statistic(
        np.concatenate([ours.rows, theirs.rows], axis=1),
        lambda rows, counts: ours.of(rows[:, :first], counts) - theirs.of(rows[:, first:], counts),
        additive=ours.additive and theirs.additive,
    )
    rows = by_unit(both, units)
    low, high = np.percentile(_draw(both.of, rows, resamples, seed), [2.5, 97.5])
    return Interval(both.value, float(low), float(high), f"paired bootstrap of {len(rows)} {unit}")


def by_unit(statistic: Statistic, units: Sequence[Any] | np.ndarray | None) -> np.ndarray:
    """The rows f64[U M] of units: the sums of the rows of their examples."""
    if units is None:
        return statistic.rows
    if len(units) != len(statistic.rows):
        raise ValueError(f"{len(units)} units for {len(statistic.rows)} examples")
    if not statistic.additive:
        raise ValueError("this statistic cannot be drawn by units: its rows cannot be added up")
    _, which = np.unique(np.asarray(units), return_inverse=True)
    rows = np.zeros((int(which.max()) + 1, statistic.rows.shape[1]))
    np.add.at(rows, which.reshape(-1), statistic.rows)
    return rows


def wilson(hits: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of independent hits."""
    share, square = hits / total, _Z95**2
    centre = (share + square / (2 * total)) / (1 + square / total)
    half = _Z95 * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    half /= 1 + square / total
    # Rounding must not push the ends off 0 and 1, where they are exact.
    low = 0.0 if hits == 0 else max(0.0, centre - half)
    return low, 1.0 if hits == total else min(1.0, centre + half)


def mcnemar(ours: Sequence[bool] | np.ndarray, theirs: Sequence[bool] | np.ndarray) -> float:
    """McNemar's exact two-sided p that two systems are right equally often; hits bool[N] each.

    Only the examples count on which one is right and the other is wrong.
    """
    ours, theirs = np.asarray(ours, bool), np.asarray(theirs, bool)
    wins, losses = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    total = wins + losses
    if wins == losses:
        return 1.0
    k = np.arange(min(wins, losses) + 1)
    logs = np.array([math.lgamma(x + 1) + math.lgamma(total - x + 1) for x in k])
    tail = np.exp(math.lgamma(total + 1) - logs - total * math.log(2)).sum()
    return min(1.0, 2 * float(tail))


def p_of(value: float, low: float, high: float) -> float:
    """The two-sided p that a number is 0, told by its 95 % interval: below .05 if 0 lies outside.

    The error towards 0 is taken as normal, with the end of the interval as its 97.5 % quantile: so
    a p may be smaller than any that could be counted in the draws.
    """
    if value == 0:
        return 1.0
    half = value - low if value > 0 else high - value
    return math.erfc(_Z95 * abs(value) / half / math.sqrt(2)) if half > 0 else 0.0


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p of several comparisons: below .05 they are mistaken in 5 % of all cases."""
    adjusted, least = {}, 0.0
    for place, name in enumerate(sorted(p, key=p.__getitem__)):
        least = max(least, min(1.0, (len(p) - place) * p[name]))
        adjusted[name] = least
    return {name: adjusted[name] for name in p}


def _plain_hits(statistic: Statistic) -> bool:
    rows = statistic.rows
    plain = rows.shape[1] == 2 and statistic.unit == "%" and np.all(rows[:, 1] == 1)
    return bool(plain and np.all((rows[:, 0] == 0) | (rows[:, 0] == 1)))


def _draw(
    of: Callable[[np.ndarray, np.ndarray], np.ndarray], rows: np.ndarray, resamples: int, seed: int
) -> np.ndarray:
    """f64[resamples]: the statistic of as many units as there are, drawn with replacement."""
    different, counts = kinds(rows)
    rng, total, found = np.random.default_rng(seed), len(rows), []
    block = max(1, _AT_ONCE // len(different))
    for start in range(0, resamples, block):
        drawn = rng.multinomial(total, counts / total, size=min(block, resamples - start))
        found.append(of(different, drawn.astype(np.float64)))
    return np.concatenate(found)
