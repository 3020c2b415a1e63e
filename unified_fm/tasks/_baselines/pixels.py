"""Pictures without a vision model: logistic regression on pixels, or on how often colours occur."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from unified_fm.data import images
from unified_fm.tasks._baselines.base import Example, logistic

SIDE = 28  # pixels of a side that are looked at
_C = 0.05  # of the regression on pixels: with thousands of them and few labels, a strong penalty
_BINS = 8  # of a histogram, in each channel


def pixel_classes(train: Sequence[Example], test: Sequence[Example]) -> list[int]:
    """`label` by logistic regression on 28 x 28 pixels of `image`."""
    labels = [int(example["label"]) for example in train]
    known, asked = pixels(train, test)
    return logistic(known, labels, asked, c=_C)


def colour_classes(train: Sequence[Example], test: Sequence[Example]) -> list[int]:
    """`label` by logistic regression on the colour histogram of `image`."""
    labels = [int(example["label"]) for example in train]
    return logistic(histograms(train), labels, histograms(test))


def pixels(train: Sequence[Example], test: Sequence[Example]) -> tuple[np.ndarray, np.ndarray]:
    """f32[N 28 * 28 * C] and f32[M 28 * 28 * C] in 0..1; C is 1 where no picture has colours."""
    seen = np.stack([_small(example["image"]) for example in (*train, *test)])
    if (seen == seen[..., :1]).all():
        seen = seen[..., :1]
    features = seen.reshape(len(seen), -1).astype(np.float32) / 255
    return features[: len(train)], features[len(train) :]


def histograms(examples: Sequence[Example]) -> np.ndarray:
    """f32[N 512 K]: roots of the shares of 8 x 8 x 8 colours, of `image` or all of `images`."""
    rows = []
    for example in examples:
        pictures = example.get("images") or [example["image"]]
        rows.append(np.concatenate([_histogram(images.decode(picture)) for picture in pictures]))
    return np.stack(rows)


def _small(picture: Any) -> np.ndarray:
    return images.resize(images.decode(picture), SIDE, SIDE)


def _histogram(picture: np.ndarray) -> np.ndarray:
    places = (picture.reshape(-1, 3) // (256 // _BINS)).astype(int) @ [_BINS**2, _BINS, 1]
    # Roots: a rare colour says as much as the ground, of which there is most.
    return np.sqrt(np.bincount(places, minlength=_BINS**3) / len(places)).astype(np.float32)
