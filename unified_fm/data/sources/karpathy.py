"""`karpathy:FILE:SPLIT[@IMAGES]`: images with their captions, by Karpathy's splits.

    karpathy:dataset_coco.json:test@data/coco          karpathy:dataset_flickr30k.json:train

One example for each image: `id` (the `cocoid`, else the `imgid`), `image`, `text` (the list of its
captions, as many as there are), `split`. "train" is `train` and `restval` together, as everybody
trains; "train-only" is the first alone. Images are below IMAGES, else below the file's folder, at
`filepath`/`filename`.
"""

import logging
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from unified_fm.data import official
from unified_fm.data.sources import base

_log = logging.getLogger(__name__)

SPLITS = {"train": ("train", "restval"), "train-only": ("train",)}  # the others are themselves


class Captioned(NamedTuple):
    """An image and its captions."""

    id: int | str
    image: str  # below the folder of images
    captions: list[str]
    split: str = ""


class Source(base.Source):
    """Random access to the images of a split; see the module for the fields."""

    def __init__(self, argument: str):
        """Reads the file.

        Raises:
            ValueError: another layout, or no such split.
            FileNotFoundError: no such file.
        """
        parts = official.argument(argument, "karpathy")
        self._file = parts.file
        self._images = official.Images(parts.images, parts.file)
        self._rows = read(parts.file, parts.part)
        captions = sum(len(row.captions) for row in self._rows)
        _log.info("karpathy:%s: %d images, %d captions", argument, len(self._rows), captions)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for an image that is not there."""
        row = self._rows[index]
        image = self._images.find(row.image)
        return {"id": row.id, "image": image, "text": list(row.captions), "split": row.split}

    def place(self, index: int) -> str:
        """The file and the image's name."""
        return f"{self._file}, {self._rows[index].image}"


def read(file: pathlib.Path, split: str) -> list[Captioned]:
    """The images of a split, in the order of the file.

    Raises:
        WrongFile: another layout, or no such split; the message lists those there are.
    """
    records = official.array(official.load_json(file), file, "images")
    found = [_captioned(record, f"{file}: images[{n}]") for n, record in enumerate(records)]
    there: Sequence[str] = sorted({row.split for row in found})
    wanted = SPLITS.get(split, (split,))
    rows = [row for row in found if row.split in wanted]
    if not rows:
        raise official.no_split(split, [*there, *(["train-only"] * ("train" in there))], file)
    return rows


def _captioned(record: dict[str, Any], where: str) -> Captioned:
    name = official.field(record, "filename", str, where)
    folder = official.field(record, "filepath", str, where) if "filepath" in record else ""
    key = next((key for key in ("cocoid", "imgid") if key in record), "imgid")
    captions = [
        official.field(sentence, "raw", str, f"{where}.sentences")
        for sentence in official.field(record, "sentences", list, where)
    ]
    return Captioned(
        official.field(record, key, (int, str), where),
        f"{folder}/{name}" if folder else name,
        captions,
        official.field(record, "split", str, where),
    )
