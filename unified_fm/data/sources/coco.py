"""`coco:FILE[:FILE][@IMAGES]`: images with captions, boxes, or both, in COCO's own layout.

    coco:annotations/captions_val2017.json@data/coco/val2017            text
    coco:annotations/instances_val2017.json@data/coco/val2017           regions
    coco:annotations/captions_val2017.json:annotations/instances_val2017.json@data/coco/val2017

`{"images": [{"id", "file_name"}], "annotations": [...], "categories": [{"id", "name"}]}`, where an
annotation has `image_id` and either a `caption` or a `bbox` and a `category_id`. One example for
each image, in the order of `images`: `id`, `image` where there is a `file_name`, and

| field | what |
| --- | --- |
| `text` | the list of its captions |
| `regions` | `box`, x, y, width, height in pixels, and `text`, the category's name |
| `objects` | the names of its categories, each once |

Boxes around a crowd (`iscrowd`) are left out. Two files are of the same images. A path is below
IMAGES, else below the file's folder. Masks and key points are not read.
"""

import os
import pathlib
from typing import Any, NamedTuple

from unified_fm import buckets, choices
from unified_fm.data import official
from unified_fm.data.official import WrongFile
from unified_fm.data.sources import base
from unified_fm.data.sources.karpathy import Captioned

_NOT_READ = ("segmentation", "keypoints", "counts", "coco_url", "flickr_url", "date_captured")


class Annotated(NamedTuple):
    """An image and what is said of it.

    Attributes:
        id: the image's.
        image: its path below the folder of images; "" where none is given.
        captions: None in a file that has none.
        regions: (box, name of the category); None in a file that has none.
    """

    id: int | str
    image: str
    captions: list[str] | None
    regions: list[tuple[list[float], str]] | None


class Source(base.Source):
    """Random access to the images; see the module for the fields."""

    def __init__(self, argument: str):
        """Reads the file, or the two.

        Raises:
            ValueError: another layout, or two files of different images.
            FileNotFoundError: no such file.
        """
        parts = official.argument(argument, "coco")
        self._file = parts.file
        self._images = official.Images(parts.images, parts.file)
        self._rows = annotated(parts.file)
        if parts.part:
            other = buckets.path(parts.part)
            if not buckets.isfile(other) and not other.is_absolute():
                other = parts.file.parent / other  # beside the first
            self._rows = _joined(self._rows, annotated(other), parts.file, other)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for an image that is not there."""
        row = self._rows[index]
        example: dict[str, Any] = {"id": row.id}
        if row.captions is not None:
            example["text"] = list(row.captions)
        if row.regions is not None:
            example["regions"] = [{"box": list(box), "text": name} for box, name in row.regions]
            example["objects"] = list(dict.fromkeys(name for _, name in row.regions))
        return example | ({"image": self._images.find(row.image)} if row.image else {})

    def place(self, index: int) -> str:
        """The file and the image's id."""
        return f"{self._file}, image {self._rows[index].id}"


def read(file: pathlib.Path) -> list[Captioned]:
    """The images with their captions; images that have none have an empty list.

    Raises:
        WrongFile: as `annotated`, or there are no captions in it.
    """
    rows = annotated(file)
    if rows and rows[0].captions is None:
        raise WrongFile(f"{file} has no captions; the file captions_*.json has them")
    return [Captioned(row.id, row.image, row.captions or []) for row in rows]


def annotated(file: pathlib.Path) -> list[Annotated]:
    """The images with their captions, or with their boxes, in the order of the file.

    Raises:
        WrongFile: another layout, an id twice, an annotation of an image or a category that is not
            listed, or both captions and boxes.
        FileNotFoundError: no such file.
    """
    found = official.load_json(file, hook=_condensed)
    images: dict[Any, str] = {}
    for number, record in enumerate(official.array(found, file, "images")):
        key = official.field(record, "id", (int, str), f"{file}: images[{number}]")
        if key in images:
            raise WrongFile(f"{file}: images[{number}] has the id {key!r} of another image")
        images[key] = record.get("file_name", "")
    annotations = official.array(found, file, "annotations")
    boxed = bool(annotations) and "bbox" in annotations[0]
    names = _categories(found, file) if boxed else {}
    said: dict[Any, list[Any]] = {key: [] for key in images}
    for number, record in enumerate(annotations):
        where = f"{file}: annotations[{number}]"
        key = official.field(record, "image_id", (int, str), where)
        if key not in said:
            near = choices.nearest(str(key), map(str, said))
            hint = f"; the nearest is {near}" if near else ""
            raise WrongFile(f"{where}: no image has the id {key!r}{hint}")
        if not boxed:
            said[key].append(official.field(record, "caption", str, where))
        elif not record.get("iscrowd"):
            said[key].append((_box(record, where), _name(record, names, where)))
    if not annotations:  # the images of a test set
        return [Annotated(key, name, None, None) for key, name in images.items()]
    if boxed:
        return [Annotated(key, name, None, said[key]) for key, name in images.items()]
    return [Annotated(key, name, said[key], None) for key, name in images.items()]


def _condensed(record: dict[str, Any]) -> dict[str, Any]:
    """An object without what is not read: the polygons of COCO would fill gigabytes."""
    for name in _NOT_READ:
        record.pop(name, None)
    return record


def _categories(found: Any, file: pathlib.Path) -> dict[Any, str]:
    names = {}
    for number, record in enumerate(official.array(found, file, "categories")):
        where = f"{file}: categories[{number}]"
        key = official.field(record, "id", (int, str), where)
        names[key] = official.field(record, "name", str, where)
    return names


def _box(record: dict[str, Any], where: str) -> list[float]:
    box = official.field(record, "bbox", list, where)
    if len(box) != 4 or not all(type(x) in (int, float) for x in box):
        raise WrongFile(f"{where}: bbox is {official.shown(box)}; x, y, width, height are needed")
    return box


def _name(record: dict[str, Any], names: dict[Any, str], where: str) -> str:
    key = official.field(record, "category_id", (int, str), where)
    if key not in names:
        raise WrongFile(f"{where}: no category has the id {key!r}; there are {len(names)}")
    return names[key]


def _joined(
    rows: list[Annotated], others: list[Annotated], file: os.PathLike, other: os.PathLike
) -> list[Annotated]:
    """The images of the first file with what both say of them."""
    for what in ("captions", "regions"):
        if rows and others and None not in (getattr(rows[0], what), getattr(others[0], what)):
            raise WrongFile(f"{file} and {other} both have {what}; one of each kind can be joined")
    more = {row.id: row for row in others}
    if missing := [row.id for row in rows if row.id not in more]:
        raise WrongFile(
            f"{other} has not the same images as {file}: {len(missing):,} of {len(rows):,} are not"
            f" in it, the first is {missing[0]!r}"
        )
    return [
        Annotated(
            row.id,
            row.image or more[row.id].image,
            more[row.id].captions if row.captions is None else row.captions,
            more[row.id].regions if row.regions is None else row.regions,
        )
        for row in rows
    ]
