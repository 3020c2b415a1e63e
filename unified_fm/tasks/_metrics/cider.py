"""CIDEr-D: how much a caption says what the references say, and others do not.

The class that COCO's evaluation calls `Cider` is this variant. Frequencies come from a corpus: the
evaluated set's own references, or, as the reward of SCST, the training set's.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unified_fm.tasks._metrics.ngrams import DocumentFrequencies, Ngram, Words, count, frequencies

_ORDERS = 4
_SIGMA = 6.0  # words by which lengths may differ
_SCALE = 10.0


def scores(
    hypotheses: Sequence[Words],
    references: Sequence[Sequence[Words]],
    corpus: DocumentFrequencies | None = None,
) -> np.ndarray:
    """f64[N], 0 to 10, of tokenised captions; perfect ones with several references have 4 to 6.

    Args:
        hypotheses: one of each image.
        references: of each image, at least one.
        corpus: frequencies; None: those of these references.
    """
    corpus = corpus or frequencies(references)
    pairs = zip(hypotheses, references, strict=True)
    return np.array([_score(words, refs, corpus) for words, refs in pairs])


class _Vector(NamedTuple):
    weights: dict[Ngram, float]
    norms: list[float]  # of each order
    length: int  # in bigrams, as published: a single word has none


def _score(words: Words, references: Sequence[Words], corpus: DocumentFrequencies) -> float:
    hypothesis = _vector(count(words, _ORDERS), corpus)
    each = [_likeness(hypothesis, _vector(count(r, _ORDERS), corpus)) for r in references]
    return _SCALE * float(np.mean(each))


def _vector(counts: Counter[Ngram], corpus: DocumentFrequencies) -> _Vector:
    whole, weights, squares, length = math.log(corpus.images), {}, [0.0] * _ORDERS, 0
    for ngram, number in counts.items():
        weight = number * (whole - math.log(max(1.0, corpus.counts.get(ngram, 0))))
        weights[ngram] = weight
        squares[len(ngram) - 1] += weight**2
        length += number if len(ngram) == 2 else 0
    return _Vector(weights, [math.sqrt(square) for square in squares], length)


def _likeness(hypothesis: _Vector, reference: _Vector) -> float:
    shared = [0.0] * _ORDERS
    for ngram, weight in hypothesis.weights.items():
        theirs = reference.weights.get(ngram, 0.0)
        shared[len(ngram) - 1] += min(weight, theirs) * theirs
    for n in range(_ORDERS):
        if hypothesis.norms[n] and reference.norms[n]:
            shared[n] /= hypothesis.norms[n] * reference.norms[n]
    apart = hypothesis.length - reference.length
    return math.exp(-(apart**2) / (2 * _SIGMA**2)) * sum(shared) / _ORDERS
