"""Retrieval from files: scores of all pairs, or each query's candidates in order.

Rows are numbered in the order of the truth: image k is its k-th image, caption k its k-th caption.
"""

import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np

from unified_fm.data import official
from unified_fm.data.official import WrongFile
from unified_fm.data.sources import albef, karpathy
from unified_fm.tasks._metrics import retrieval
from unified_fm.tasks._scoring.scored import Scored

_ARRAYS = ("scores", *retrieval.DIRECTIONS)


def score_retrieval(
    said: pathlib.Path,
    truth: pathlib.Path,
    *,
    split: str = "test",
    captions_per_image: int = 0,
    folds: int = 0,
) -> Scored:
    """Recalls of both directions; units are images with all their captions.

    Args:
        said: .npz of scores, higher is better: `image_to_text` f[I T] and `text_to_image` f[T I],
            or `scores` f[I T] for both; .npy of the latter; or JSON lines of candidates in order.
        truth: Karpathy's file, or ALBEF's array.
        split: of Karpathy's file.
        captions_per_image: keep the first so many of each image (CLIP's scripts: 5); 0: all.
        folds: images of each fold ("COCO 1k": 1000), over which is averaged; 0: the whole set.
    """
    rows = _read(truth, split)
    texts = [row.captions[: captions_per_image or None] for row in rows]
    image_of = retrieval.owners(texts)
    if said.suffix in (".npz", ".npy"):
        scores = _scores(said, len(rows), len(image_of))
        if folds:
            statistics = retrieval.folds(*scores, image_of, size=folds)
        else:
            statistics = retrieval.measures(*retrieval.ranks(*scores, image_of), image_of)
    elif folds:
        raise WrongFile(f"{said}: folds need scores of all pairs (.npz)")
    else:
        statistics = retrieval.measures(*_ranked(said, image_of, len(rows)), image_of)
    chance = {} if folds else retrieval.chance(len(rows), image_of)
    return Scored(
        counts={"images": len(rows), "captions": len(image_of)},
        statistics={"mean_recall": statistics.pop("mean_recall"), **statistics},
        chance=chance,
        chance_is="random order",
        unit="images",
        settings={
            "split": split,
            "captions_per_image": captions_per_image or "all",
            "folds": folds,
        },
    )


def _read(truth: pathlib.Path, split: str) -> list[karpathy.Captioned]:
    if isinstance(official.load_json(truth), list):
        return albef.read(truth)
    return karpathy.read(truth, split)


def _scores(said: pathlib.Path, images: int, texts: int) -> tuple[np.ndarray, np.ndarray]:
    """f[I T] of the images and f[T I] of the texts."""
    try:
        found = np.load(said, allow_pickle=False)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise WrongFile(f"{said} cannot be read as NumPy's arrays: {error}") from error
    arrays = {"scores": found} if isinstance(found, np.ndarray) else dict(found)
    if "scores" in arrays:
        arrays = {"image_to_text": arrays["scores"], "text_to_image": arrays["scores"].T}
    for name, shape in zip(retrieval.DIRECTIONS, [(images, texts), (texts, images)], strict=True):
        if name not in arrays:
            there = ", ".join(arrays) or "nothing"
            raise WrongFile(f"{said} has no {name}; it has {there}; possible: {', '.join(_ARRAYS)}")
        if arrays[name].shape != shape:
            raise WrongFile(
                f"{said}: {name} is {list(arrays[name].shape)}; the truth has {images} images and"
                f" {texts} captions, so {list(shape)} is needed"
            )
    return arrays["image_to_text"], arrays["text_to_image"]


def _ranked(said: pathlib.Path, image_of: np.ndarray, images: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks i[I] and i[T]; a query whose match is not among its candidates has the last one."""
    image_ranks, text_ranks = np.full(images, -1), np.full(len(image_of), -1)
    owners: Sequence[int] = image_of.tolist()
    for line, record in official.load_lines(said):
        where = f"{said}, line {line}"
        of_image = "image" in record
        key = official.field(record, "image" if of_image else "caption", int, where)
        ranked = official.field(record, "ranked", list, where)
        found, among = (image_ranks, len(owners)) if of_image else (text_ranks, images)
        for row, total in [(key, len(found)), *((row, among) for row in ranked)]:
            if not isinstance(row, int) or not 0 <= row < total:
                raise WrongFile(f"{where}: row {row!r}; possible: 0 to {total - 1}")
        if found[key] >= 0:
            raise WrongFile(f"{where} ranks {'image' if of_image else 'caption'} {key} again")
        if len(set(ranked)) != len(ranked):
            raise WrongFile(f"{where} has a candidate twice")
        right = [owners[row] == key for row in ranked] if of_image else None
        hits = right if right is not None else [row == owners[key] for row in ranked]
        found[key] = hits.index(True) if any(hits) else among
    for found, what in ((image_ranks, "images"), (text_ranks, "captions")):
        if missing := np.flatnonzero(found < 0).tolist():
            raise WrongFile(
                f"{said} ranks nothing for {len(missing):,} {what}; the first is {missing[0]}"
            )
    return image_ranks, text_ranks
