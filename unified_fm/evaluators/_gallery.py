"""The images and captions of a retrieval: who belongs to whom, and which are ranked together."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unified_fm.evaluators import base
from unified_fm.evaluators._batches import stack
from unified_fm.tasks._scoring import rankings


class Set(NamedTuple):
    """Images and captions that are ranked among themselves, by their rows."""

    images: np.ndarray  # i[I]
    texts: np.ndarray  # i[T]


@dataclasses.dataclass(frozen=True)
class Gallery:
    """All images and captions, one row each; pixels of this process's images only."""

    held: base.Pass
    image_class: np.ndarray  # i[I], equal for the same image id
    text: np.ndarray  # i32[T L]
    text_mask: np.ndarray  # bool[T L]
    text_class: np.ndarray  # i[T], equal for the same tokens
    image_of: np.ndarray  # i[T], the image a caption was written for
    captions: list[str]
    names: rankings.Names
    same: str  # as of the evaluator

    def positive(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        """Whether captions (or some that read the same) belong to images, bool[...].

        Rows of both, as arrays that broadcast against each other.
        """
        owners = self.image_class[self.image_of[texts]]
        if self.same == "ids":
            return self.image_class[images] == owners
        table = np.zeros((self.image_class.max() + 1, self.text_class.max() + 1), bool)
        table[self.image_class[self.image_of], self.text_class] = True
        return table[self.image_class[images], self.text_class[texts]]

    def sets(self, size: int) -> list[Set]:
        """The images in sets of `size`, each with all captions of its images; 0: in one.

        A last incomplete set is left out.
        """
        total = len(self.image_class)
        size = min(size or total, total)
        split = []
        for start in range(0, total - size + 1, size):
            images = np.arange(start, start + size)
            split.append(Set(images, np.flatnonzero(np.isin(self.image_of, images))))
        return split

    def matches(self, one: Set) -> tuple[list[list[str]], list[list[str]]]:
        """Names of the captions of each image of a set, and of the images of each caption."""
        right = np.nonzero(self.positive(one.images[:, None], one.texts[None]))
        of_images: list[list[str]] = [[] for _ in one.images]
        of_texts: list[list[str]] = [[] for _ in one.texts]
        for i, t in zip(*(rows.tolist() for rows in right), strict=True):
            of_images[i].append(self.names.captions[one.texts[t]])
            of_texts[t].append(self.names.images[one.images[i]])
        return of_images, of_texts


def gather(evaluator: base.HeldOut, captions_per_image: int, same: str) -> Gallery:
    """The gallery of what an evaluator reads, of all processes.

    Args:
        evaluator: reads pairs.
        captions_per_image: the first so many of each image are used; 0: all.
        same: see `retrieval.Evaluator`.
    """
    held, processes = evaluator.load(), evaluator.passes.processes
    rows, captions, counts = [], [], []
    for _, number, record in held.numbered():
        texts = base.captions(record)[: captions_per_image or None]
        counts.append(len(texts))
        for place, caption in enumerate(texts):
            tokens = evaluator.tokens(caption, number)
            if tokens is not None:
                rows.append(tokens | {"image_of": number, "place": place})
                captions.append(caption)
    found = processes.gather(stack(rows))
    ids = processes.gather_values([str(record["id"]) for record in held.records])
    length = int(found["text_mask"].sum(axis=1).max())
    text, mask = found["text"][:, :length], found["text_mask"][:, :length]
    return Gallery(
        held=held,
        image_class=np.unique(ids, return_inverse=True)[1].reshape(-1),
        text=text,
        text_mask=mask,
        text_class=np.unique(np.where(mask, text, -1), axis=0, return_inverse=True)[1].reshape(-1),
        image_of=found["image_of"],
        captions=processes.gather_values(captions),
        names=_names(ids, processes.gather_values(counts), found),
        same=same,
    )


def _names(ids: Sequence[str], counts: Sequence[int], found) -> rankings.Names:
    """Of the images, and of the captions that are used: one that is not has its name all the same,
    as it has one in the file."""
    every = rankings.names(ids, counts)
    first = np.cumsum([0, *counts])[found["image_of"]]
    return rankings.Names(every.images, [every.captions[i] for i in first + found["place"]])
