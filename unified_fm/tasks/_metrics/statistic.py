"""A number of a test set, kept so that it can be computed again on other draws of its examples.

Every metric of a task is one: accuracy and CIDEr-D as means, F1, BLEU and Pearson's r as functions
of sums, Spearman's rho as a function of the rows themselves. So one bootstrap serves all.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Statistic:
    """A function of a bag of rows.

    Attributes:
        rows: f64[N M], one of each example.
        of: (rows f64[K M], counts f64[R K]) -> f64[R]: the number of each of R bags, which hold
            row k `counts[r, k]` times.
        additive: whether only the sums of the rows count, so that the rows of one image (or of
            another unit) may be added up.
        unit: "%" for a share, which is 0 to 1 all the same; "" for other numbers.
        better: "higher" or "lower".
    """

    rows: np.ndarray
    of: Callable[[np.ndarray, np.ndarray], np.ndarray]
    additive: bool = True
    unit: str = ""
    better: str = "higher"

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or not len(self.rows):
            raise ValueError(
                f"a statistic needs rows f64[N M] of N > 0 examples: {self.rows.shape}"
            )

    @property
    def value(self) -> float:
        """The number of the examples as they are."""
        rows, counts = kinds(self.rows)
        return float(self.of(rows, counts[None])[0])

    @property
    def per_example(self) -> np.ndarray:
        """f64[N], of a mean: the values that it is the mean of.

        Raises:
            ValueError: it is no plain mean, so no example has a value of its own.
        """
        if self.rows.shape[1] != 2 or not np.all(self.rows[:, 1] == 1):
            raise ValueError("this statistic is no mean over examples: none has a value of its own")
        return self.rows[:, 0]


def of_sums(
    rows: np.ndarray, finish: Callable[[np.ndarray], np.ndarray], *, unit: str = ""
) -> Statistic:
    """A function of the sums over all examples: of `rows` f64[N M], `finish` f64[R M] -> f64[R]."""
    rows = np.asarray(rows, np.float64)
    return Statistic(rows, lambda rows, counts: finish(counts @ rows), unit=unit)


def mean(values: Sequence[float] | np.ndarray, *, unit: str = "") -> Statistic:
    """The mean of values f64[N]."""
    values = np.asarray(values, np.float64)
    return of_sums(np.stack([values, np.ones(len(values))], axis=1), quotient, unit=unit)


def share(hits: Sequence[bool] | np.ndarray) -> Statistic:
    """The share of hits bool[N]; partial ones are numbers from 0 to 1."""
    return mean(hits, unit="%")


def average(statistics: Sequence[Statistic]) -> Statistic:
    """The mean of several statistics of the same examples, drawn together."""
    edges = np.cumsum([s.rows.shape[1] for s in statistics])[:-1]

    def of(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        parts = np.split(rows, edges, axis=1)
        found = [s.of(part, counts) for s, part in zip(statistics, parts, strict=True)]
        return np.mean(found, axis=0)

    return Statistic(
        np.concatenate([s.rows for s in statistics], axis=1),
        of,
        additive=all(s.additive for s in statistics),
        unit=statistics[0].unit if len({s.unit for s in statistics}) == 1 else "",
    )


def kinds(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The different rows f64[K M] of many, and how many there are of each, f64[K]."""
    found, counts = np.unique(rows, axis=0, return_counts=True)
    return found, counts.astype(np.float64)


def quotient(sums: np.ndarray) -> np.ndarray:
    """f64[R]: the first of the sums f64[R 2] by the second; 0 where that is 0."""
    return divide(sums[:, 0], sums[:, 1])


def divide(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(above, np.float64), where=below != 0)


def values(statistics: dict[str, Statistic]) -> dict[str, float]:
    """{metric: its number}."""
    return {name: statistic.value for name, statistic in statistics.items()}
