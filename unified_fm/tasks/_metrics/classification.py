"""Classes: top-1, top-5, the mean over classes, F1 of the positive class, Matthews' correlation.

Labels may be strings or numbers, as long as predictions and truth write them alike.
"""

from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np

from unified_fm.tasks._metrics import statistic
from unified_fm.tasks._metrics.statistic import Statistic, divide


def accuracy(predictions: Sequence[Hashable], truth: Sequence[Hashable]) -> Statistic:
    """The share of examples whose label is predicted."""
    return statistic.share(hits(predictions, truth))


def hits(predictions: Sequence[Hashable], truth: Sequence[Hashable]) -> np.ndarray:
    """f64[N]: 1 where the label is predicted. Raises ValueError if there are not as many."""
    check_lengths(predictions, truth)
    return np.array([p == t for p, t in zip(predictions, truth, strict=True)], np.float64)


def top(predictions: Sequence[Sequence[Hashable]], truth: Sequence[Hashable], k: int) -> Statistic:
    """The share of examples whose label is among the k first of a list, the best first."""
    check_lengths(predictions, truth)
    found = [t in list(p)[:k] for p, t in zip(predictions, truth, strict=True)]
    return statistic.share(np.array(found, np.float64))


def mean_per_class(predictions: Sequence[Hashable], truth: Sequence[Hashable]) -> Statistic:
    """The mean over the classes of the truth of the share that is right in each.

    A class that a draw of the bootstrap does not contain is left out of that draw's mean.
    """
    right = hits(predictions, truth)
    classes = {label: k for k, label in enumerate(dict.fromkeys(truth))}
    which = np.array([classes[label] for label in truth])
    # One column of the hits, one of the class's number: the sums of each class are made of them,
    # so that a thousand classes do not cost two thousand columns of an example.
    rows = np.stack([right, which], axis=1)

    def of(rows: np.ndarray, counts: np.ndarray) -> np.ndarray:
        member = (rows[:, 1:] == np.arange(len(classes))).astype(np.float64)  # f[K classes]
        number = counts @ member
        shares = divide(counts @ (member * rows[:, :1]), number)
        return shares.sum(axis=1) / (number > 0).sum(axis=1)

    return Statistic(rows, of, additive=False, unit="%")


def f1(predictions: Sequence[Hashable], truth: Sequence[Hashable], positive: Hashable) -> Statistic:
    """F1 of one class: 2PR / (P + R), and 0 where it is neither there nor predicted."""

    def finish(sums: np.ndarray) -> np.ndarray:
        both, wrong, missed, _ = sums.T
        return divide(2 * both, 2 * both + wrong + missed)

    return statistic.of_sums(_confusion(predictions, truth, positive), finish, unit="%")


def matthews(
    predictions: Sequence[Hashable], truth: Sequence[Hashable], positive: Hashable
) -> Statistic:
    """Matthews' correlation of two classes, -1 to 1; 0 where one of its four sums is 0."""

    def finish(sums: np.ndarray) -> np.ndarray:
        both, wrong, missed, neither = sums.T
        below = (both + wrong) * (both + missed) * (neither + wrong) * (neither + missed)
        return divide(both * neither - wrong * missed, np.sqrt(below))

    return statistic.of_sums(_confusion(predictions, truth, positive), finish)


def majority(truth: Sequence[Hashable]) -> tuple[Hashable, float]:
    """The most frequent label (of equal ones the first met), and its share: what a guess gets."""
    label, count = Counter(truth).most_common(1)[0]
    return label, count / len(truth)


def measures(
    predictions: Sequence[Hashable] | Sequence[Sequence[Hashable]], truth: Sequence[Hashable]
) -> dict[str, Statistic]:
    """`accuracy`, `mean_per_class`, and `top5` where each prediction is a list of at least five.

    Args:
        predictions: a label of each example, or its labels from the best one on; an empty list is
            wrong.
        truth: the label of each.
    """
    lists = [list(p) if isinstance(p, list | tuple | np.ndarray) else [p] for p in predictions]
    first = [one[0] if one else None for one in lists]
    found = {"accuracy": accuracy(first, truth), "mean_per_class": mean_per_class(first, truth)}
    if min(map(len, filter(None, lists)), default=0) >= 5:
        found["top5"] = top(lists, truth, 5)
    return found


def metrics(predictions: Sequence, truth: Sequence[Hashable]) -> dict[str, float]:
    """The numbers of `measures`."""
    return statistic.values(measures(predictions, truth))


def check_lengths(predictions: Sequence, truth: Sequence) -> None:
    """Raises ValueError unless there are as many predictions as examples, and some."""
    if len(predictions) != len(truth) or not len(truth):
        raise ValueError(
            f"{len(predictions)} predictions for {len(truth)} examples; each example needs one"
        )


def _confusion(
    predictions: Sequence[Hashable], truth: Sequence[Hashable], positive: Hashable
) -> np.ndarray:
    """f64[N 4]: true positive, false positive, false negative, true negative."""
    check_lengths(predictions, truth)
    said = np.array([p == positive for p in predictions])
    true = np.array([t == positive for t in truth])
    return np.stack([said & true, said & ~true, ~said & true, ~said & ~true], axis=1) * 1.0
