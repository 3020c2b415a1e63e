"""`coco_captions:FILE[@IMAGES]`: images with their captions, in COCO's own layout.

    coco_captions:annotations/captions_val2014.json@data/coco/val2014

`{"images": [{"id", "file_name"}], "annotations": [{"image_id", "id", "caption"}]}`. One example
for each image, in the order of `images`: `id`, `image` where there is a `file_name`, `text` (the
list of its captions). Images are below IMAGES, else below the file's folder.
"""

import pathlib
from typing import Any

from unified_fm import choices
from unified_fm.data import official
from unified_fm.data.official import WrongFile
from unified_fm.data.sources._one_file import OneFile
from unified_fm.data.sources.karpathy import Captioned


class Source(OneFile):
    """Random access to the images; see the module for the fields."""

    form = "coco_captions"

    def rows_of(self, file: pathlib.Path) -> list[Captioned]:
        """See `read`."""
        return read(file)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Raises `Skip` for an image that is not there."""
        row = self._rows[index]
        example: dict[str, Any] = {"id": row.id, "text": list(row.captions)}
        return example | ({"image": self._images.find(row.image)} if row.image else {})

    def place(self, index: int) -> str:
        """The file and the image's id."""
        return f"{self._file}, image {self._rows[index].id}"


def read(file: pathlib.Path) -> list[Captioned]:
    """The images with their captions; images that have none have an empty list.

    Raises:
        WrongFile: another layout, an id twice, or a caption of an image that is not listed.
    """
    found = official.load_json(file)
    captions: dict[Any, list[str]] = {}
    names: dict[Any, str] = {}
    for number, record in enumerate(official.array(found, file, "images")):
        key = official.field(record, "id", (int, str), f"{file}: images[{number}]")
        if key in captions:
            raise WrongFile(f"{file}: images[{number}] has the id {key!r} of another image")
        captions[key], names[key] = [], record.get("file_name", "")
    for number, record in enumerate(official.array(found, file, "annotations")):
        where = f"{file}: annotations[{number}]"
        key = official.field(record, "image_id", (int, str), where)
        if key not in captions:
            near = choices.nearest(str(key), map(str, captions))
            hint = f"; the nearest is {near}" if near else ""
            raise WrongFile(f"{where}: no image has the id {key!r}{hint}")
        captions[key].append(official.field(record, "caption", str, where))
    return [Captioned(key, names[key], captions[key]) for key in captions]
