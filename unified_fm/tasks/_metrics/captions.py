"""Metrics of captions: BLEU-1 to 4, ROUGE-L and CIDEr-D of the raw captions of a set.

METEOR and SPICE are not offered: both need Java, and SPICE a download.
"""

from collections.abc import Sequence

from unified_fm.tasks._metrics import bleu, cider, rouge, statistic
from unified_fm.tasks._metrics.ngrams import DocumentFrequencies, Words
from unified_fm.tasks._metrics.ptb import tokenize
from unified_fm.tasks._metrics.statistic import Statistic

RESAMPLES = 1000  # of the bootstrap; the frequencies stay those of the whole set


def measures(
    predictions: Sequence[str],
    truth: Sequence[Sequence[str]],
    corpus: DocumentFrequencies | None = None,
) -> dict[str, Statistic]:
    """`cider`, `bleu1` to `bleu4`, `rouge_l`; the first is the headline.

    Args:
        predictions: a caption of each image, as the model gave it.
        truth: the references of each image.
        corpus: frequencies for CIDEr-D; None: those of this set's references.

    Raises:
        ValueError: an image without references, or other numbers of captions than of images.
    """
    if len(predictions) != len(truth):
        raise ValueError(f"{len(predictions)} captions for {len(truth)} images")
    if empty := [place for place, captions in enumerate(truth) if not captions]:
        raise ValueError(f"{len(empty)} images have no reference; the first is number {empty[0]}")
    return of_words(
        [tokenize(caption) for caption in predictions],
        [[tokenize(caption) for caption in captions] for captions in truth],
        corpus,
    )


def of_words(
    hypotheses: Sequence[Words],
    references: Sequence[Sequence[Words]],
    corpus: DocumentFrequencies | None = None,
) -> dict[str, Statistic]:
    """As `measures`, of captions that are tokenised."""
    return {
        "cider": statistic.mean(cider.scores(hypotheses, references, corpus)),
        **bleu.measures(hypotheses, references),
        "rouge_l": statistic.mean(rouge.scores(hypotheses, references)),
    }


def metrics(
    predictions: Sequence[str],
    truth: Sequence[Sequence[str]],
    corpus: DocumentFrequencies | None = None,
) -> dict[str, float]:
    """The numbers of `measures`; BLEU and ROUGE-L 0 to 1, CIDEr-D 0 to 10 (often given x 100)."""
    return statistic.values(measures(predictions, truth, corpus))


def chance(truth: Sequence[Sequence[str]]) -> dict[str, float]:
    """What the first reference of the next image reaches, which is right by accident only.

    Raises:
        ValueError: there is no other image.
    """
    if len(truth) < 2:
        raise ValueError("a guess is a reference of another image, and there is one image alone")
    others = [truth[(place + 1) % len(truth)][0] for place in range(len(truth))]
    return metrics(others, truth)
