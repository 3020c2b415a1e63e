"""Questions about pictures, answered without the picture, or without the question."""

from collections import Counter
from collections.abc import Sequence

from unified_fm.tasks._baselines.base import Example, logistic
from unified_fm.tasks._baselines.pixels import histograms, pixels
from unified_fm.tasks._baselines.words import tfidf

_PIXELS_C = 0.05


def question_only(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """The most frequent answer to exactly this question, else to one that begins like it.

    It begins alike in three words, two, one or none; of equally frequent answers the first met.
    """
    counts: dict[tuple[str, ...], Counter[str]] = {}
    for example in train:
        answer = most_said(example)
        for part in _beginnings(example["question"]):
            counts.setdefault(part, Counter())[answer] += 1
    found = []
    for example in test:
        part = next(part for part in _beginnings(example["question"]) if part in counts)
        found.append(counts[part].most_common(1)[0][0])
    return found


def image_only(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """The answer by logistic regression on the colour histogram of the picture alone."""
    answers = [most_said(example) for example in train]
    return logistic(histograms(train), answers, histograms(test))


def image_only_pixels(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """The same on its pixels."""
    known, asked = pixels(train, test)
    return logistic(known, [most_said(example) for example in train], asked, c=_PIXELS_C)


def sentence_only(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """NLVR2 without the pictures: "True" or "False" by TF-IDF and logistic regression."""
    x, asked = tfidf([e["text"] for e in train], [e["text"] for e in test])
    return _words(logistic(x, [int(e["label"]) for e in train], asked))


def pictures_only(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """NLVR2 without the sentence: by colour histograms of both pictures."""
    return _words(logistic(histograms(train), [int(e["label"]) for e in train], histograms(test)))


def most_said(example: Example) -> str:
    """The most frequent of an example's answers; of equally frequent ones the first."""
    return Counter(example["answers"]).most_common(1)[0][0]


def _beginnings(question: str) -> list[tuple[str, ...]]:
    parts = tuple(question.lower().split())
    return [parts, *(("...", *parts[:length]) for length in (3, 2, 1, 0))]


def _words(labels: Sequence[int]) -> list[str]:
    return [("False", "True")[label] for label in labels]
