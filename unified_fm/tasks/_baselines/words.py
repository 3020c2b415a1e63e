"""Words without a language model: TF-IDF of words and pairs of words, and shared words."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unified_fm.tasks._baselines.base import Example, logistic, not_installed

_C = 4.0  # of the logistic regression on TF-IDF: weak, as its features are small
_RIDGE = 1.0


def tfidf_classes(train: Sequence[Example], test: Sequence[Example]) -> list[int]:
    """`label` by logistic regression on TF-IDF(1, 2) of the texts, joined."""
    x, asked = tfidf(list(map(text_of, train)), list(map(text_of, test)))
    return logistic(x, [int(example["label"]) for example in train], asked, c=_C)


def tfidf_scores(train: Sequence[Example], test: Sequence[Example]) -> list[float]:
    """`label`, a score, by ridge regression on TF-IDF(1, 2)."""
    x, asked = tfidf(list(map(text_of, train)), list(map(text_of, test)))
    from sklearn.linear_model import Ridge  # `tfidf` has said so if it is not there

    model = Ridge(alpha=_RIDGE).fit(x, [float(example["label"]) for example in train])
    return [float(value) for value in model.predict(asked)]


def overlap(train: Sequence[Example], test: Sequence[Example]) -> list[int]:
    """Whether two texts belong together (1) or not (0), by the share of words that they share.

    The share is that of the shorter text's words; the threshold is the best one in training.
    """
    shares, labels = shared(train), np.array([int(example["label"]) for example in train])
    # Each share is tried as a threshold: those that are as high are said to match.
    tried = np.unique(shares)
    order = np.argsort(shares, kind="stable")
    ones_below = np.concatenate([[0], np.cumsum(labels[order])])
    below = np.searchsorted(shares[order], tried)
    right = below - ones_below[below] + (labels.sum() - ones_below[below])
    threshold = tried[int(right.argmax())]
    return [int(share >= threshold) for share in shared(test)]


def shared(pairs: Sequence[Example]) -> np.ndarray:
    """f64[N]: the share of the shorter text's words that the other has too."""
    found = []
    for example in pairs:
        first, second = (words(text) for text in texts_of(example)[:2])
        found.append(len(first & second) / max(1, min(len(first), len(second))))
    return np.array(found)


def words(text: str) -> set[str]:
    """The words of a text, in lower case."""
    return set(re.findall(r"[^\W_]+", text.lower()))


def texts_of(example: Mapping) -> list[str]:
    """The one or two texts of an example, of `sentences`, or of `text` and `second`."""
    if "sentences" in example:
        return list(example["sentences"])
    text = example["text"] if isinstance(example["text"], str) else example["text"][0]
    return [text, example["second"]] if "second" in example else [text]


def text_of(example: Mapping) -> str:
    """All text of an example."""
    return " ".join(texts_of(example))


def tfidf(train: Sequence[str], test: Sequence[str]) -> tuple[Any, Any]:
    """Sparse TF-IDF features f[N D] and f[M D] of words and pairs of words of training.

    Raises:
        NotInstalled: without scikit-learn.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise not_installed() from error
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    return vectors.fit_transform(train), vectors.transform(test)
