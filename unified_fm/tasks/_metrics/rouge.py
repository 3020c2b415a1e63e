"""ROUGE-L as COCO's captions are scored: recall counts more, and its best reference is its own.

P and R are the longest common subsequence over the lengths of hypothesis and reference, each the
largest over the references *by itself*; F = (1 + b^2) P R / (R + b^2 P) with b = 1.2.
"""

from collections.abc import Sequence

import numpy as np

from unified_fm.tasks._metrics.ngrams import Words

_BETA = 1.2


def scores(hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> np.ndarray:
    """f64[N], 0 to 1, of tokenised captions."""
    return np.array([score(h, r) for h, r in zip(hypotheses, references, strict=True)])


def score(words: Words, references: Sequence[Words]) -> float:
    """ROUGE-L of one caption. An empty one has 0."""
    common = [(longest_common(words, reference), len(reference)) for reference in references]
    precision = max(length / max(1, len(words)) for length, _ in common)
    recall = max(length / max(1, total) for length, total in common)
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def longest_common(first: Words, second: Words) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for word in first:
        before = 0  # of the row above, one to the left
        for k, other in enumerate(second, start=1):
            before, row[k] = row[k], before + 1 if word == other else max(row[k], row[k - 1])
    return row[-1]
