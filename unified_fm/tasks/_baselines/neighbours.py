"""Captions and retrieval without a model: what was said of the picture that looks most alike."""

from collections.abc import Sequence

import numpy as np

from unified_fm.tasks._baselines.base import Example
from unified_fm.tasks._baselines.pixels import pixels
from unified_fm.tasks._baselines.words import tfidf


def nearest_caption(train: Sequence[Example], test: Sequence[Example]) -> list[str]:
    """The first caption of the training picture with the nearest pixels."""
    return [_captions(train[i])[0] for i in _nearest(train, test)]


def retrieval_scores(train: Sequence[Example], test: Sequence[Example]) -> np.ndarray:
    """f64[I T]: how alike a test caption is to those of the training picture nearest to an image.

    Alike by the cosine of TF-IDF(1, 2), the best of that picture's captions. Test captions are in
    the order of the pictures, all of each.
    """
    captions = [caption for example in test for caption in _captions(example)]
    known = [_captions(train[i]) for i in _nearest(train, test)]
    flat = [caption for some in known for caption in some]
    x, asked = tfidf(flat, captions)
    alike = np.asarray((x @ asked.T).todense())  # rows have length 1
    starts = np.cumsum([0, *map(len, known)])[:-1]
    return np.maximum.reduceat(alike, starts, axis=0)


def _nearest(train: Sequence[Example], test: Sequence[Example]) -> list[int]:
    known, asked = (each.astype(np.float64) for each in pixels(train, test))
    distance = (known**2).sum(1)[None] - 2 * asked @ known.T  # but for what is equal in a row
    return distance.argmin(1).tolist()


def _captions(example: Example) -> list[str]:
    return [example["text"]] if isinstance(example["text"], str) else list(example["text"])
