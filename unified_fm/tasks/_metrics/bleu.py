"""Corpus BLEU-1 to 4 with several references, as COCO's captions are scored.

The reference length of an image is the closest to the hypothesis, the shorter of two as close.
"""

from collections.abc import Sequence

import numpy as np

from unified_fm.tasks._metrics import statistic
from unified_fm.tasks._metrics.ngrams import Words, count
from unified_fm.tasks._metrics.statistic import Statistic

ORDERS = 4
_TINY, _SMALL = 1e-15, 1e-9  # of the official evaluation


def measures(
    hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]
) -> dict[str, Statistic]:
    """`bleu1` to `bleu4` of tokenised captions; the rows are counts of each image.

    Args:
        hypotheses: one of each image.
        references: of each image, at least one.
    """
    pairs = zip(hypotheses, references, strict=True)
    rows = np.array([_counts(words, refs) for words, refs in pairs], np.float64)
    return {f"bleu{n}": statistic.of_sums(rows, _finish(n)) for n in range(1, ORDERS + 1)}


def _counts(words: Words, references: Sequence[Words]) -> list[float]:
    """Right n-grams of each order, n-grams of each order, length, length of the reference."""
    most: dict[tuple[str, ...], int] = {}
    for reference in references:
        for ngram, number in count(reference, ORDERS).items():
            most[ngram] = max(most.get(ngram, 0), number)
    right = [0] * ORDERS
    for ngram, number in count(words, ORDERS).items():
        right[len(ngram) - 1] += min(number, most.get(ngram, 0))
    total = [max(0, len(words) - n) for n in range(ORDERS)]
    closest = min(map(len, references), key=lambda length: (abs(length - len(words)), length))
    return [*right, *total, len(words), closest]


def _finish(order: int):
    def bleu(sums: np.ndarray) -> np.ndarray:
        right, total = sums[:, :order], sums[:, ORDERS : ORDERS + order]
        precision = np.log((right + _TINY) / (total + _SMALL)).mean(axis=1)
        ratio = (sums[:, -2] + _TINY) / (sums[:, -1] + _SMALL)
        return np.exp(precision + np.minimum(0.0, 1.0 - 1.0 / ratio))

    return bleu
