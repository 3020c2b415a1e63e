"""Image-text retrieval: ranks of each direction, recalls, their mean, and folds of 1,000 images.

Rows are in the order of the file. Which captions are an image's is told by `image_of`, never by
`caption // 5`: COCO's 5,000 test images have 25,010 captions.
"""

from collections.abc import Sequence

import numpy as np

from unified_fm.tasks._metrics import statistic
from unified_fm.tasks._metrics.statistic import Statistic

CUTS = (1, 5, 10)
DIRECTIONS = ("image_to_text", "text_to_image")

_AT_ONCE = 2**24  # scores that are ranked at a time


def first_rank(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The rank of each query's best match, counted from 0; ties and NaN count against it.

    Of scores f[queries candidates] and true matches bool[queries candidates], i[queries]: how many
    wrong candidates score at least as high as the best true one.
    """
    scores = np.where(np.isnan(scores), -np.inf, scores)
    best = np.where(positive, scores, -np.inf).max(axis=1, keepdims=True)
    return ((scores >= best) & ~positive).sum(axis=1)


def chance_recall(matches: np.ndarray, total: np.ndarray | int, k: int) -> np.ndarray:
    """R@k of a random order: 1 - C(n - p, k) / C(n, k) for p matches i[Q] among n. f[Q]."""
    matches, total = np.broadcast_arrays(matches, total)
    missed = np.ones(len(matches))
    for drawn in range(k):
        wrong, left = np.clip(total - matches - drawn, 0, None), np.maximum(total - drawn, 1)
        missed *= np.where(drawn < total, wrong / left, 1.0)
    return 1.0 - missed


def top(scores: np.ndarray, k: int) -> np.ndarray:
    """The k best candidates of each query, i[queries min(k, candidates)], best first.

    Scores are f[queries candidates]; NaN is the worst, and of equal candidates the first are taken.
    """
    k = min(k, scores.shape[1])
    block = max(1, _AT_ONCE // scores.shape[1])
    found = [_top(scores[start : start + block], k) for start in range(0, len(scores), block)]
    return np.concatenate(found) if found else np.zeros((0, k), int)


def _top(scores: np.ndarray, k: int) -> np.ndarray:
    """A block of `top`: all above the k-th score, and as many of its equals as there is room for.

    Sorting all 25,010 captions for each of 5,000 images would take minutes.
    """
    if not k:
        return np.zeros((len(scores), 0), int)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    last = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k]
    above, equal = scores > last, scores == last
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1, dtype=np.int32) <= room))
    members = np.nonzero(chosen)[1].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, members, axis=1), axis=1, kind="stable")
    return np.take_along_axis(members, order, axis=1)


def rank(right: Sequence[bool], scores: Sequence[float] | None, wrong: int) -> int:
    """The rank of a query's best match, counted from 0, of a list of its best candidates.

    Args:
        right: of each listed candidate, best first, whether it is a match.
        scores: theirs; ties count against the match. None: the order of the list is the ranking.
        wrong: candidates that are none, listed or not. They all come before a match that is not
            listed.
    """
    if True not in right:
        return wrong
    if scores is None:
        return list(right).index(True)
    best = max(score for score, hit in zip(scores, right, strict=True) if hit)
    return sum(score >= best and not hit for score, hit in zip(scores, right, strict=True))


def ranks(
    of_images: np.ndarray, of_texts: np.ndarray, image_of: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The rank of every image among the captions and of every caption among the images.

    Each direction has its own scores: where a part of the pairs was ranked again, each query's own
    best candidates were, and a pair that only the other direction chose must not overtake.

    Args:
        of_images: f[I T], higher is better.
        of_texts: f[T I]; `of_images.T` where nothing was ranked again.
        image_of: i[T], the row of each caption's image.

    Returns:
        (i[I], i[T]), counted from 0. An image's rank is that of the best of its captions.

    Raises:
        ValueError: shapes that do not fit, or an image without a caption.
    """
    images, texts = of_images.shape
    if of_texts.shape != (texts, images) or image_of.shape != (texts,):
        raise ValueError(
            f"scores {of_images.shape} of images, {of_texts.shape} of texts and {image_of.shape}"
            " owners do not fit: they are [I T], [T I] and [T]"
        )
    missing = np.setdiff1d(np.arange(images), image_of)
    if len(missing) or image_of.max() >= images:
        raise ValueError(
            f"{len(missing)} of {images} images have no caption (the first is row"
            f" {missing[:1].tolist()}): they have no rank"
        )
    return (
        _ranks(of_images, np.arange(images), image_of),
        _ranks(of_texts, image_of, np.arange(images)),
    )


def measures(
    image_ranks: np.ndarray,
    text_ranks: np.ndarray,
    image_of: np.ndarray,
    cuts: Sequence[int] = CUTS,
) -> dict[str, Statistic]:
    """Recalls of both directions and `mean_recall`, their mean; a row for each image.

    An image and all its captions are one unit, so the bootstrap needs no other.

    Args:
        image_ranks: i[I], as `ranks` gives them.
        text_ranks: i[T].
        image_of: i[T].
        cuts: the k of the recalls.
    """
    return weighted(image_ranks, text_ranks, image_of, np.ones(len(text_ranks)), cuts)


def weighted(
    image_ranks: np.ndarray,
    text_ranks: np.ndarray,
    image_of: np.ndarray,
    weights: np.ndarray,
    cuts: Sequence[int] = CUTS,
) -> dict[str, Statistic]:
    """As `measures`, with captions that count by `weights` f[T]."""
    found = {}
    for k in cuts:
        found[f"image_to_text/r{k}"] = statistic.share(np.asarray(image_ranks) < k)
    of_image = np.bincount(image_of, weights, minlength=len(image_ranks))
    for k in cuts:
        hits = np.bincount(image_of, weights * (text_ranks < k), minlength=len(image_ranks))
        rows = np.stack([hits, of_image], axis=1)
        found[f"text_to_image/r{k}"] = statistic.of_sums(rows, statistic.quotient, unit="%")
    return found | {"mean_recall": statistic.average(list(found.values()))}


def folds(
    of_images: np.ndarray,
    of_texts: np.ndarray,
    image_of: np.ndarray,
    size: int = 1000,
    cuts: Sequence[int] = CUTS,
) -> dict[str, Statistic]:
    """Means over folds of `size` images in file order, each ranked among itself ("COCO 1k").

    Images that fill no fold are left out. Every fold counts alike, however many captions it has.

    Raises:
        ValueError: fewer images than one fold has.
    """
    number = len(of_images) // size
    if not number:
        raise ValueError(f"folds of {size} images need as many; there are {len(of_images)}")
    parts = []
    for fold in range(number):
        images = np.arange(fold * size, (fold + 1) * size)
        texts = np.flatnonzero(np.isin(image_of, images))
        owners = image_of[texts] - images[0]
        here = of_images[np.ix_(images, texts)], of_texts[np.ix_(texts, images)]
        parts.append(
            (*ranks(*here, owners), owners + images[0], np.full(len(texts), 1 / len(texts)))
        )
    joined = (np.concatenate(column) for column in zip(*parts, strict=True))
    return weighted(*joined, cuts=cuts)


def metrics(
    image_ranks: np.ndarray, text_ranks: np.ndarray, image_of: np.ndarray, cuts=CUTS
) -> dict[str, float]:
    """The numbers of `measures`."""
    return statistic.values(measures(image_ranks, text_ranks, image_of, cuts))


def chance(images: int, image_of: np.ndarray, cuts: Sequence[int] = CUTS) -> dict[str, float]:
    """What a random order reaches."""
    own = np.bincount(image_of, minlength=images)
    found = {}
    for k in cuts:
        found[f"image_to_text/r{k}"] = float(chance_recall(own, len(image_of), k).mean())
    for k in cuts:
        found[f"text_to_image/r{k}"] = min(k, images) / images
    return found | {"mean_recall": float(np.mean(list(found.values())))}


def owners(captions: Sequence[Sequence[str]]) -> np.ndarray:
    """`image_of` i[T] of images with these captions each, in file order."""
    return np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])


def _ranks(scores: np.ndarray, queries: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Ranks i[Q] of f[Q C], where a candidate is right that has the query's number."""
    block = max(1, _AT_ONCE // scores.shape[1])
    found = []
    for start in range(0, len(scores), block):
        own = queries[start : start + block, None] == candidates
        found.append(first_rank(scores[start : start + block], own))
    return np.concatenate(found)
