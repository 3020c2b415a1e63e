"""What a drawn caption is worth to self-critical training: CIDEr-D by the training set's rarity."""

from collections.abc import Sequence

import numpy as np

from unified_fm.tasks._metrics import cider
from unified_fm.tasks._metrics.ngrams import DocumentFrequencies, Words, frequencies
from unified_fm.tasks._metrics.ptb import tokenize

END = "</s>"  # as a word of a caption


def training_frequencies(references: Sequence[Sequence[str]]) -> DocumentFrequencies:
    """Document frequencies of the raw captions of each image, the end of each counted as a word.

    N-grams without the end are what they are without it, so they serve rewards of both kinds.
    """
    return frequencies([[[*tokenize(text), END] for text in texts] for texts in references])


def rewards(
    captions: Sequence[tuple[Words, bool]],
    references: Sequence[Words],
    corpus: DocumentFrequencies,
    *,
    ends: bool = True,
) -> np.ndarray:
    """CIDEr-D f64[K] of captions of one image; 0 where it has no references.

    Args:
        captions: the words of each, and whether it came to its end.
        references: of the image, words alike.
        corpus: of the training references.
        ends: count the end as a word: otherwise captions learn to stop at "in the".
    """
    if not references:
        return np.zeros(len(captions))
    said = [[*words, END] if ends and whole else words for words, whole in captions]
    truth = [[*words, END] if ends else words for words in references]
    return cider.scores(said, [truth] * len(said), corpus)
