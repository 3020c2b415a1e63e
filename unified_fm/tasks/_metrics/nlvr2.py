"""NLVR2: accuracy, and consistency: the share of sentences that are judged right for every pair."""

from collections.abc import Sequence

import numpy as np

from unified_fm.tasks._metrics import classification, statistic
from unified_fm.tasks._metrics.statistic import Statistic


def sentence_of(identifier: str) -> str:
    """What the examples of one sentence share: "dev-850-0-1" -> "dev-850-1" (set, no pair).

    Raises:
        ValueError: not of four fields.
    """
    fields = identifier.split("-")
    if len(fields) != 4:
        raise ValueError(
            f"NLVR2 identifier {identifier!r} is not of the form split-set-pair-sentence"
            ' ("dev-850-0-1")'
        )
    split, group, _, sentence = fields
    return f"{split}-{group}-{sentence}"


def measures(
    predictions: Sequence[str], truth: Sequence[str], identifiers: Sequence[str]
) -> dict[str, Statistic]:
    """`accuracy` over the pairs and `consistency` over the sentences.

    Args:
        predictions, truth: "True" or "False" of each example, as words: `bool("False")` is true.
        identifiers: of each, as published.

    Raises:
        ValueError: another label, or an identifier of another form.
    """
    for label in {*predictions, *truth}:
        if label not in ("True", "False"):
            raise ValueError(f"NLVR2 label {label!r}; possible: 'True', 'False' (as words)")
    right = classification.hits(predictions, truth)
    _, group = np.unique([sentence_of(name) for name in identifiers], return_inverse=True)
    group = group.reshape(-1)
    whole = np.ones(int(group.max()) + 1)
    np.minimum.at(whole, group, right)
    # Each pair has its part of its sentence, so that both metrics have a row for each pair.
    part = 1 / np.bincount(group)[group]
    rows = np.stack([whole[group] * part, part], axis=1)
    return {
        "accuracy": statistic.share(right),
        "consistency": statistic.of_sums(rows, statistic.quotient, unit="%"),
    }


def metrics(
    predictions: Sequence[str], truth: Sequence[str], identifiers: Sequence[str]
) -> dict[str, float]:
    """The numbers of `measures`."""
    return statistic.values(measures(predictions, truth, identifiers))


def sets(identifiers: Sequence[str]) -> list[str]:
    """The unit of each example for the bootstrap: its set of images, which its sentences share."""
    return ["-".join(name.split("-")[:2]) for name in identifiers]


def chance(truth: Sequence[str], identifiers: Sequence[str]) -> dict[str, float]:
    """What the more frequent answer reaches for all."""
    label, _ = classification.majority(truth)
    return metrics([str(label)] * len(truth), truth, identifiers)
